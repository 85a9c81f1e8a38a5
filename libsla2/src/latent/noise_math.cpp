// SPDX-License-Identifier: Apache-2.0
// The Cephes single-precision polynomials (S. Moshier, netlib cephes/single: logf, sinf, cosf). PyTorch's CPU randn evaluates
// them with AVX2 and fused multiply-adds; equal noise for equal seeds needs the same roundings in the same order, so every
// fusion is written out here. Which of the products are fused was found by comparing bits with torch.randn.
#include "latent/noise_math.h"

#include <bit>
#include <cmath>
#include <cstdint>

namespace sla2::latent {
namespace {

/// Horner's rule with fused steps, highest power first.
template <int N>
float polynomial(const float (&coefficients)[N], float x) noexcept {
  float sum = coefficients[0];
  for (int i = 1; i < N; ++i) sum = std::fma(sum, x, coefficients[i]);
  return sum;
}

}  // namespace

float single_log(float value) noexcept {
  constexpr float kSqrtHalf = 0.707106781186547524f;
  constexpr float kLn2Low = -2.12194440e-4f, kLn2High = 0.693359375f;  // ln 2 in two pieces
  constexpr float kLog[] = {7.0376836292e-2f,  -1.1514610310e-1f, 1.1676998740e-1f,  -1.2420140846e-1f, 1.4249322787e-1f,
                            -1.6668057665e-1f, 2.0000714765e-1f,  -2.4999993993e-1f, 3.3333331174e-1f};
  constexpr int kMantissaBits = 23, kExponentOfHalf = 126;
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  float exponent = static_cast<float>(static_cast<int>(bits >> kMantissaBits) - kExponentOfHalf);
  float x = std::bit_cast<float>((bits & 0x007fffffu) | 0x3f000000u);  // mantissa in [0.5, 1)
  if (x < kSqrtHalf) {
    exponent -= 1.0f;
    x = (x - 1.0f) + x;
  } else {
    x = x - 1.0f;
  }
  const float z = x * x;
  float y = polynomial(kLog, x) * x;
  y = std::fma(y, z, exponent * kLn2Low);
  y = std::fma(-z, 0.5f, y);
  return std::fma(exponent, kLn2High, x + y);
}

void single_sincos(float angle, float& sine, float& cosine) noexcept {
  constexpr float kFourOverPi = 1.27323954473516f;
  constexpr float kPiQuarter[] = {-0.78515625f, -2.4187564849853515625e-4f, -3.77489497744594108e-8f};  // -pi/4 in three pieces
  constexpr float kCosine[] = {2.443315711809948e-5f, -1.388731625493765e-3f, 4.166664568298827e-2f};
  constexpr float kSine[] = {-1.9515295891e-4f, 8.3321608736e-3f, -1.6666654611e-1f};
  const int octant = (static_cast<int>(angle * kFourOverPi) + 1) & ~1;
  float x = angle;
  for (const float piece : kPiQuarter) x = std::fma(static_cast<float>(octant), piece, x);
  const float z = x * x;
  float even = polynomial(kCosine, z) * z;
  even = std::fma(even, z, -(z * 0.5f)) + 1.0f;
  const float odd = std::fma(polynomial(kSine, z) * z, x, x);
  const bool swapped = (octant & 2) != 0;
  sine = swapped ? even : odd;
  cosine = swapped ? odd : even;
  if ((octant & 4) != 0) sine = -sine;
  if (((octant - 2) & 4) == 0) cosine = -cosine;
}

}  // namespace sla2::latent
