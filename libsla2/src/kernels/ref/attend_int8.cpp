// SPDX-License-Identifier: Apache-2.0
// Attention with eight-bit Q·K as plainly as it can be written: integers in order, true maxima, weights rounded to bf16.
#include "kernels/attend_int8.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/panel_gemm.h"
#include "kernels/ref/int8_logits.h"

namespace sla2::kernels::ref {
namespace {

constexpr float kNone = -std::numeric_limits<float>::infinity(), kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr int64_t kMaxBlock = 128;
constexpr int32_t kShift = 128;  // keys are stored plus this
constexpr float kSteps = 127, kLeast = 1e-35F;

int32_t key_at(const AttendInt8& a, int64_t block, int64_t key, int64_t channel) {
  return a.key_blocks[(block * a.dim / 4 + channel / 4) * a.block_k * 4 + key * 4 + channel % 4] - kShift;
}
float value_at(const AttendInt8& a, int64_t block, int64_t key, int64_t channel) {
  const int64_t width = panels_of(a.dim) * kPanel;
  return bf16_to_f32(a.value_blocks[((block * a.block_k + key) / 2 * width + channel) * 2 + key % 2]);
}

/// Largest magnitude among what is finite in `count` numbers.
float magnitude_of(const float* x, int64_t count) {
  float top = 0;
  for (int64_t i = 0; i < count; ++i)
    if (std::isfinite(x[i])) top = std::max(top, std::abs(x[i]));
  return top;
}
bool all_finite(const float* x, int64_t count) {
  return std::all_of(x, x + count, [](float value) { return std::isfinite(value); });
}
float step_of(float top) { return top < kLeast ? 0.0F : top / kSteps; }
/// To the nearest even step; what is not finite becomes 0.
int32_t steps_of(float x, float top) {
  return std::isfinite(x) && top >= kLeast ? static_cast<int32_t>(std::nearbyint(x * (kSteps / top))) : 0;
}

}  // namespace

float int8_logits(const AttendInt8& a, int64_t row, int64_t block, int64_t keys, float* logits) {
  const float* const bias = a.bias == nullptr ? nullptr : a.bias + block * a.block_k;
  const float scale = a.scale * a.q_scale[row] * a.key_scale[block];
  float top = a.m[row];
  for (int64_t t = 0; t < keys; ++t) {
    int32_t sum = 0;
    for (int64_t c = 0; c < a.dim; ++c) sum += a.q[row * a.dim + c] * key_at(a, block, t, c);
    logits[t] = static_cast<float>(sum) * scale + (bias == nullptr ? 0.0F : bias[t]);
    top = std::max(top, logits[t]);
  }
  return top;
}

float move_maximum(const AttendInt8& a, int64_t row, float top, int64_t acc_row) {
  const float factor = top == a.m[row] ? 1.0F : std::exp2(a.m[row] - top);
  a.m[row] = top;
  a.l[row] *= factor;
  for (int64_t c = 0; c < acc_row; ++c) a.acc[row * acc_row + c] *= factor;
  return top == kNone ? 0.0F : top;
}

void attend_int8(const AttendInt8& a) {
  const int64_t width = panels_of(a.dim) * kPanel;
  for_each_row_and_block(a, width, [&](int64_t row, int64_t block, int64_t keys) {
    float logits[kMaxBlock];
    const float origin = move_maximum(a, row, int8_logits(a, row, block, keys, logits), width);
    for (int64_t t = 0; t < keys; ++t) {
      const float weight = bf16_to_f32(f32_to_bf16(std::exp2(logits[t] - origin)));
      a.l[row] += weight;
      for (int64_t c = 0; c < a.dim; ++c) a.acc[row * width + c] += weight * value_at(a, block, t, c);
    }
  });
}

void quantise_rows_int8(const float* rows, int64_t n, int64_t dim, int8_t* out, float* scale, int32_t* offset) {
  const float top = magnitude_of(rows, n * dim);
  for (int64_t t = 0; t < n; ++t) {
    scale[t] = all_finite(rows + t * dim, dim) ? step_of(top) : kNaN;
    offset[t] = 0;
    for (int64_t c = 0; c < dim; ++c) {
      const int32_t q = steps_of(rows[t * dim + c], top);
      out[t * dim + c] = static_cast<int8_t>(q);
      offset[t] -= kShift * q;
    }
  }
}

void pack_keys_int8(const float* rows, int64_t n, int64_t dim, int64_t block, uint8_t* out, float* scale) {
  const float top = magnitude_of(rows, n * dim);
  *scale = all_finite(rows, n * dim) ? step_of(top) : kNaN;
  for (int64_t c = 0; c < dim; ++c)
    for (int64_t t = 0; t < block; ++t)
      out[c / 4 * block * 4 + t * 4 + c % 4] = static_cast<uint8_t>(kShift + (t < n ? steps_of(rows[t * dim + c], top) : 0));
}

}  // namespace sla2::kernels::ref
