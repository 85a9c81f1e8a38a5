// SPDX-License-Identifier: Apache-2.0
#include "kernels/attend_fp8.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "kernels/e4m3.h"
#include "kernels/panel_gemm.h"
#include "kernels/ref/int8_logits.h"

namespace sla2::kernels::ref {
namespace {

constexpr int64_t kMaxBlock = 128, kAnew = 64, kTogether = 32;  // keys: block, short sum, one matrix instruction
constexpr float kLeast = 1e-35F, kOffset = 8.807354922F;        // log2 448

/// The tensor cores' number: 13 mantissa bits, the rest cut off.
double cut_off(double x) {
  constexpr uint64_t kKept = ~((uint64_t{1} << (52 - 13)) - 1);
  return std::isfinite(x) ? std::bit_cast<double>(std::bit_cast<uint64_t>(x) & kKept) : x;
}

/// Σ weight · value over `keys` keys of one channel. A product has 8 bits and 32 of them span 2^41: fp64 adds them exactly.
float short_sum(const float* weights, const uint8_t* values, int64_t value_row, int64_t keys, Fp8Sums sums) {
  double sum = 0;
  for (int64_t t = 0; t < keys; ++t) {
    sum += static_cast<double>(weights[t]) * static_cast<double>(f8e4m3_to_f32(values[t * value_row]));
    if (sums == Fp8Sums::kTwoLevel && (t % kTogether == kTogether - 1 || t == keys - 1)) sum = cut_off(sum);
  }
  return static_cast<float>(sum);
}

}  // namespace

void attend_fp8(const AttendFp8& args) {
  const AttendInt8& a = args.scores;
  const int64_t width = panels_of(a.dim) * kPanel;
  for_each_row_and_block(a, width, [&](int64_t row, int64_t block, int64_t keys) {
    float weights[kMaxBlock];
    const float origin = move_maximum(a, row, int8_logits(a, row, block, keys, weights), width);
    for (int64_t t = 0; t < keys; ++t) {
      const float weight = std::exp2(weights[t] - origin + kOffset);
      a.l[row] += weight;
      weights[t] = f8e4m3_to_f32(f32_to_e4m3(weight));
    }
    for (int64_t t = 0; t < keys; t += kAnew)
      for (int64_t c = 0; c < a.dim; ++c)
        a.acc[row * width + c] += short_sum(weights + t, args.value_blocks + (block * a.block_k + t) * width + c, width,
                                            std::min(kAnew, keys - t), args.sums);
  });
  for (int64_t row = 0; row < a.rows; ++row) {
    a.l[row] /= kLargestE4m3;
    for (int64_t c = 0; c < a.dim; ++c) a.acc[row * width + c] *= args.value_scale[c] / kLargestE4m3;
  }
}

void largest_per_channel(const float* rows, int64_t n, int64_t dim, float* largest) {
  for (int64_t i = 0; i < n * dim; ++i)
    if (std::isfinite(rows[i])) largest[i % dim] = std::max(largest[i % dim], std::abs(rows[i]));
}

void pack_values_fp8(const float* rows, int64_t n, int64_t dim, int64_t block, const float* largest, uint8_t* out, float* scale) {
  const int64_t width = panels_of(dim) * kPanel;
  for (int64_t c = 0; c < width; ++c) {
    const bool zero = c >= dim || largest[c] < kLeast;
    scale[c] = zero ? 0.0F : largest[c] / kLargestE4m3;
    for (int64_t t = 0; t < block; ++t) {
      const float x = t < n && c < dim ? rows[t * dim + c] : 0.0F;
      const float steps = zero ? 0.0F : x * (kLargestE4m3 / largest[c]);
      out[t * width + c] = f32_to_e4m3(std::isfinite(x) ? steps : std::numeric_limits<float>::quiet_NaN());
    }
  }
}

}  // namespace sla2::kernels::ref
