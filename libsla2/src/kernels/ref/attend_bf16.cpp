// SPDX-License-Identifier: Apache-2.0
// bf16 attention as plainly as it can be written: bf16 inputs, fp32 sums in order, weights rounded to bf16, true maxima.
#include "kernels/attend_bf16.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/panel_gemm.h"

namespace sla2::kernels::ref {
namespace {

constexpr float kNone = -std::numeric_limits<float>::infinity();

float key_at(const AttendBf16& a, int64_t block, int64_t key, int64_t channel) {
  return bf16_to_f32(a.key_blocks[(block * a.dim / 2 + channel / 2) * a.block_k * 2 + key * 2 + channel % 2]);
}
float value_at(const AttendBf16& a, int64_t block, int64_t key, int64_t channel) {
  const int64_t width = panels_of(a.dim) * kPanel;
  return bf16_to_f32(a.value_blocks[((block * a.block_k + key) / 2 * width + channel) * 2 + key % 2]);
}

/// One row against one key block: logits, the new maximum, weights, sums. The state moves along.
void attend_row(const AttendBf16& a, int64_t row, int64_t block, int64_t keys, const float* bias, float* acc) {
  constexpr int64_t kMaxBlock = 128;
  float logits[kMaxBlock];
  float top = a.m[row];
  for (int64_t t = 0; t < keys; ++t) {
    float sum = 0;
    for (int64_t c = 0; c < a.dim; ++c) sum += bf16_to_f32(a.q[row * a.dim + c]) * key_at(a, block, t, c);
    logits[t] = sum * a.scale + (bias == nullptr ? 0.0F : bias[t]);
    top = std::max(top, logits[t]);
  }
  const float factor = top == a.m[row] ? 1.0F : std::exp2(a.m[row] - top);
  a.m[row] = top;
  a.l[row] *= factor;
  for (int64_t c = 0; c < a.dim; ++c) acc[c] *= factor;
  for (int64_t t = 0; t < keys; ++t) {
    const float weight = bf16_to_f32(f32_to_bf16(std::exp2(logits[t] - (top == kNone ? 0.0F : top))));
    a.l[row] += weight;
    for (int64_t c = 0; c < a.dim; ++c) acc[c] += weight * value_at(a, block, t, c);
  }
}

}  // namespace

void attend_bf16(const AttendBf16& a) {
  const int64_t width = panels_of(a.dim) * kPanel;
  std::fill_n(a.acc, a.rows * width, 0.0F);
  for (int64_t row = 0; row < a.rows; ++row) {
    a.m[row] = kNone;
    a.l[row] = 0;
    for (int64_t i = 0; i < a.count; ++i) {
      const int64_t block = a.list == nullptr ? i : a.list[i];
      const float* const bias = a.bias == nullptr ? nullptr : a.bias + block * a.block_k;
      attend_row(a, row, block, std::min(a.block_k, a.keys - block * a.block_k), bias, a.acc + row * width);
    }
  }
}

void pack_keys_bf16(const float* rows, int64_t n, int64_t dim, int64_t block, bf16_t* out) {
  for (int64_t c = 0; c < dim; ++c)
    for (int64_t t = 0; t < block; ++t)
      out[c / 2 * block * 2 + t * 2 + c % 2] = t < n ? f32_to_bf16(rows[t * dim + c]) : bf16_t{0};
}

void pack_values_bf16(const float* rows, int64_t n, int64_t dim, int64_t block, bf16_t* out) {
  const int64_t width = panels_of(dim) * kPanel;
  for (int64_t t = 0; t < block; ++t)
    for (int64_t c = 0; c < width; ++c)
      out[(t / 2 * width + c) * 2 + t % 2] = t < n && c < dim ? f32_to_bf16(rows[t * dim + c]) : bf16_t{0};
}

void narrow_rows_bf16(const float* rows, int64_t count, bf16_t* out) { convert_to_bf16(rows, out, static_cast<size_t>(count)); }

}  // namespace sla2::kernels::ref
