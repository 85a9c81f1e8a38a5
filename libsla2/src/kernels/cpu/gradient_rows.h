// SPDX-License-Identifier: Apache-2.0
// The passes of kernels/gradient_rows.h for vectors of N floats, for AVX2 and AVX-512 files only.
#pragma once
#include <algorithm>

#include "kernels/cpu/rows.h"
#include "kernels/gradient_rows.h"

namespace sla2::kernels {
namespace {

/// x · y in two sums of N/2 fp64 lanes each.
template <size_t N>
HWY_INLINE double dot_with(int64_t dim, const float* x, const float* y) {
  const hn::FixedTag<double, N / 2> tag;
  const hn::FixedTag<float, N / 2> half;
  constexpr int64_t kLanes = N / 2;
  const auto wide = [&](const float* at) { return hn::PromoteTo(tag, hn::LoadU(half, at)); };
  auto even = hn::Zero(tag), odd = hn::Zero(tag);
  int64_t c = 0;
  for (; c + 2 * kLanes <= dim; c += 2 * kLanes) {
    even = hn::MulAdd(wide(x + c), wide(y + c), even);
    odd = hn::MulAdd(wide(x + c + kLanes), wide(y + c + kLanes), odd);
  }
  if (c < dim) even = hn::MulAdd(wide(x + c), wide(y + c), even);  // AVX-512: the last eight channels
  return hn::GetLane(hn::SumOfLanes(tag, hn::Add(even, odd)));
}

template <size_t N>
void row_dots_with(int64_t rows, int64_t dim, const float* x, int64_t x_row, const float* y, int64_t y_row, double* out) {
  for (int64_t r = 0; r < rows; ++r, x += x_row, y += y_row) out[r] = dot_with<N>(dim, x, y);
}

template <size_t N>
void through_features_with(int64_t rows, int64_t dim, const float* phi, const float* d_phi, int64_t row, float* out) {
  for (int64_t r = 0; r < rows; ++r, phi += dim, d_phi += row, out += row) {
    const auto mean = static_cast<float>(dot_with<N>(dim, phi, d_phi));
    over_row<N>(dim, [&](auto tag, int64_t c) {
      hn::StoreU(hn::Mul(hn::LoadU(tag, phi + c), hn::Sub(hn::LoadU(tag, d_phi + c), hn::Set(tag, mean))), tag, out + c);
    });
    std::fill(out + dim, out + row, 0.0F);
  }
}

}  // namespace

/// The ops of one instruction set, in a file compiled for it.
#define SLA2_GRADIENT_ROW_OPS(space, lanes)                                                                             \
  namespace space {                                                                                                     \
  void row_dots(int64_t rows, int64_t dim, const float* x, int64_t x_row, const float* y, int64_t y_row, double* out) { \
    row_dots_with<lanes>(rows, dim, x, x_row, y, y_row, out);                                                           \
  }                                                                                                                     \
  void through_features(int64_t rows, int64_t dim, const float* phi, const float* d_phi, int64_t row, float* out) {     \
    through_features_with<lanes>(rows, dim, phi, d_phi, row, out);                                                      \
  }                                                                                                                     \
  }

}  // namespace sla2::kernels
