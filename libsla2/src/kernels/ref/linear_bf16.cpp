// SPDX-License-Identifier: Apache-2.0
// The linear branch in bf16, plain: fp32 sums in order.
#include "kernels/linear_bf16.h"

#include <algorithm>

#include "kernels/feature_map.h"
#include "kernels/panel_gemm.h"

namespace sla2::kernels::ref {
namespace {

int64_t width_of(int64_t dim) { return panels_of(dim) * kPanel; }
/// Element (c, d) of a state.
int64_t state_at(int64_t c, int64_t d, int64_t width) { return (c / 2 * width + d) * 2 + c % 2; }

}  // namespace

void features_bf16(int64_t rows, int64_t dim, const float* x, bf16_t* out) {
  constexpr int64_t kMaxDim = 256;
  float line[kMaxDim];
  for (int64_t r = 0; r < rows; ++r) {
    std::copy_n(x + r * dim, dim, line);
    feature_map(1, dim, line);
    convert_to_bf16(line, out + r * dim, static_cast<size_t>(dim));
  }
}

void key_features_bf16(const float* rows, int64_t n, int64_t dim, int64_t block, bf16_t* out, float* z) {
  constexpr int64_t kMaxDim = 256;
  bf16_t line[kMaxDim];
  std::fill_n(out, block * width_of(dim), bf16_t{0});
  std::fill_n(z, dim, 0.0F);
  for (int64_t t = 0; t < n; ++t) {
    features_bf16(1, dim, rows + t * dim, line);
    for (int64_t c = 0; c < dim; ++c) {
      out[(t / 2 * width_of(dim) + c) * 2 + t % 2] = line[c];
      z[c] += bf16_to_f32(line[c]);
    }
  }
}

void key_state_bf16(int64_t keys, int64_t dim, const bf16_t* features, const bf16_t* values, bf16_t* h) {
  const int64_t width = width_of(dim);
  for (int64_t c = 0; c < dim; ++c)
    for (int64_t d = 0; d < width; ++d) {
      float sum = 0;
      for (int64_t t = 0; t < keys; ++t)
        sum += bf16_to_f32(features[(t / 2 * width + c) * 2 + t % 2]) * bf16_to_f32(values[(t / 2 * width + d) * 2 + t % 2]);
      h[state_at(c, d, width)] = f32_to_bf16(sum);
    }
}

void sum_states_bf16(const SumStatesBf16& s) {
  for (int64_t i = 0; i < s.size; ++i) {
    const int64_t wide = i / 32 * 32 + i % 2 * 16 + i % 32 / 2;
    float sum = 0;
    for (int64_t n = 0; n < s.count; ++n) sum += bf16_to_f32(s.blocks[(s.list == nullptr ? n : s.list[n]) * s.stride + i]);
    const float result = (s.base == nullptr ? 0.0F : s.base[wide]) + s.sign * sum;
    if (s.out != nullptr) s.out[i] = f32_to_bf16(result);
    if (s.wide != nullptr) s.wide[wide] = result;
  }
}

void apply_state_bf16(int64_t rows, int64_t dim, const bf16_t* features, const bf16_t* h, float* out) {
  const int64_t width = width_of(dim);
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t d = 0; d < width; ++d) {
      float sum = 0;
      for (int64_t c = 0; c < dim; ++c) sum += bf16_to_f32(features[r * dim + c]) * bf16_to_f32(h[state_at(c, d, width)]);
      out[r * width + d] = sum;
    }
}

void feature_sums_bf16(int64_t rows, int64_t dim, const bf16_t* features, const double* z_rest, const double* z_total,
                       double* rest, double* total) {
  for (int64_t r = 0; r < rows; ++r) {
    rest[r] = total[r] = 0;
    for (int64_t c = 0; c < dim; ++c) {
      const auto phi = static_cast<double>(bf16_to_f32(features[r * dim + c]));
      rest[r] += phi * z_rest[c];
      total[r] += phi * z_total[c];
    }
  }
}

}  // namespace sla2::kernels::ref
