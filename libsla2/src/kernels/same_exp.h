// SPDX-License-Identifier: Apache-2.0
// exp with the same bits on every machine: IEEE additions and multiplications in one order, nothing fused. The C library's and a
// GPU's differ in the last bit, and rules that cut a cumulated share would then keep other blocks.
#pragma once
#include <bit>
#include <cstdint>

namespace sla2::kernels {

/// Math for compilers that fuse nothing unasked: plain x86-64 code.
struct PlainMath {
  static double multiply(double x, double y) { return x * y; }
  static double add(double x, double y) { return x + y; }
  static double from_bits(uint64_t bits) { return std::bit_cast<double>(bits); }
};

/// e^x for x <= 0 within two units in the last place; 0 below -708, NaN stays.
template <typename Math>
constexpr double same_exp(double x) {
  constexpr double kLog2E = 0x1.71547652b82fep+0, kLn2High = 0x1.62e42fee00000p-1, kLn2Low = 0x1.a39ef35793c76p-33;
  constexpr double kSmallest = -708;
  constexpr int kTerms = 13;  // of r^n / n!, |r| <= ln2 / 2: the first left out is below 2^-57
  constexpr int kBias = 1023, kMantissa = 52;
  if (x != x) return x;
  if (x < kSmallest) return 0;
  const auto k = static_cast<int>(Math::add(Math::multiply(x, kLog2E), -0.5));  // towards 0: to the nearest
  const auto steps = static_cast<double>(k);
  const double r = Math::add(Math::add(x, -Math::multiply(steps, kLn2High)), -Math::multiply(steps, kLn2Low));
  double sum = 1;
  for (int n = kTerms; n > 0; --n) sum = Math::add(1, Math::multiply(r, sum) / static_cast<double>(n));
  return Math::multiply(sum, Math::from_bits(static_cast<uint64_t>(k + kBias) << kMantissa));
}

}  // namespace sla2::kernels
