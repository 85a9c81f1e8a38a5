// SPDX-License-Identifier: Apache-2.0
// The number systems the formulas run in. `operand` is what a number becomes where it enters Q·Kᵀ or P·V, `feature` where it
// enters φ(K)ᵀV or φ(Q)·H; sums are kept in T. Plain bf16 is what anybody's straightforward bf16 code does: operands rounded,
// fp32 accumulation; the linear branch's products too (docs/numerics.md).
#pragma once
#include <cstring>

#include "oracle/matrix.h"

namespace sla2::check {

/// To the nearest bf16, ties to even; NaN and infinity stay.
inline float round_to_bf16(float x) {
  if (!std::isfinite(x)) return x;
  uint32_t bits = 0;
  std::memcpy(&bits, &x, sizeof bits);
  bits += 0x7FFFU + ((bits >> 16U) & 1U);
  bits &= 0xFFFF0000U;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

struct Exact {
  using T = double;
  static T operand(T x) { return x; }
  static T feature(T x) { return x; }
};
struct PlainF32 {
  using T = float;
  static T operand(T x) { return x; }
  static T feature(T x) { return x; }
};
struct PlainBf16 {
  using T = float;
  static T operand(T x) { return round_to_bf16(x); }
  static T feature(T x) { return round_to_bf16(x); }
};
struct PlainInt8 : PlainBf16 {};  ///< Q and K − μ as int8 with one scale per block (prepared beforehand), P and V in bf16
struct PlainFp8 : PlainInt8 {};  ///< the same with P (times 448) and V (one scale per channel) in e4m3; the linear branch in bf16

/// To the nearest e4m3, ties to even: 3 mantissa bits down to 2^-6, steps of 2^-9 below, nothing above 448.
inline float round_to_e4m3(float x) {
  if (!std::isfinite(x) || x == 0) return x;
  const int exponent = std::max(std::ilogb(x), -6);
  const float step = std::ldexp(1.0F, exponent - 3);
  return std::clamp(std::nearbyint(x / step) * step, -448.0F, 448.0F);
}

/// Each column onto e4m3 in steps of its largest magnitude / 448.
template <typename T>
Matrix<T> through_e4m3(Matrix<T> x) {
  for (int64_t c = 0; c < x.cols; ++c) {
    T top = 0;
    for (int64_t r = 0; r < x.rows; ++r) top = std::max(top, std::abs(x(r, c)));
    if (top == 0) continue;
    const T step = top / 448;
    for (int64_t r = 0; r < x.rows; ++r) x(r, c) = static_cast<T>(round_to_e4m3(static_cast<float>(x(r, c) / step))) * step;
  }
  return x;
}

/// A softmax weight, at most 1, as it enters P·V.
template <typename A>
typename A::T weight_operand(typename A::T e) {
  if constexpr (std::is_same_v<A, PlainFp8>)
    return round_to_e4m3(e * 448) / 448;
  else
    return A::operand(e);
}

template <typename A>
Matrix<typename A::T> operands(Matrix<typename A::T> x) {
  for (auto& value : x.data) value = A::operand(value);
  return x;
}

/// Each block of rows onto 255 steps of amax / 127 and back. A block of zeros stays.
template <typename T>
Matrix<T> through_int8(Matrix<T> x, int64_t block) {
  for (int64_t first = 0; first < x.rows; first += block) {
    const int64_t count = std::min(block, x.rows - first) * x.cols;
    T* const at = x.row(first);
    T top = 0;
    for (int64_t i = 0; i < count; ++i) top = std::max(top, std::abs(at[i]));
    if (top == 0) continue;
    const T step = top / 127;
    for (int64_t i = 0; i < count; ++i) at[i] = std::nearbyint(at[i] / step) * step;
  }
  return x;
}

}  // namespace sla2::check
