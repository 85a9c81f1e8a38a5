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
