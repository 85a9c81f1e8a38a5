// SPDX-License-Identifier: Apache-2.0
// The softmax branch of 16 query rows per warp: scores of a key tile, online softmax in base 2, weights times values.
#pragma once
#include "kernels/cuda/fragments.h"
#include "kernels/cuda/queries.h"
#include "kernels/cuda/walk.h"

namespace sla2::cuda {

template <int kWidth, Products kProducts>
struct SoftmaxBranch {
  static constexpr bool kFp8 = has_fp8(kProducts), kHalfSums = kProducts == Products::kInt8Fp8Half;
  static constexpr int kKeyRow = kWidth * key_bytes(kProducts);
  static constexpr uint32_t kKeyTile = kTileKeys * kKeyRow;
  static constexpr uint32_t kValueTile = kTileKeys * kWidth * value_bytes(kProducts);
  static constexpr float kFp8Offset = 8.80735492F;  ///< log2 448: weights fill e4m3's range

  float o[kWidth / 8][4];  ///< Σ weight · v of rows g (0, 1) and g + 8 (2, 3)
  float m[2], l[2];        ///< maximum; sum of this lane's columns until finish()
  float s[kTileKeys / 8][4];

  SLA2_DEVICE void clear() {
    for (auto& part : o)
      for (float& x : part) x = 0;
    m[0] = m[1] = -infinity();
    l[0] = l[1] = 0;
  }

  template <typename Walk>
  static SLA2_DEVICE void copy_values(const Walk& walk, uint32_t to, const unsigned char* tiles, int32_t step) {
    if constexpr (kFp8)
      walk.template copy_values8<kWidth>(to, tiles, step);
    else
      walk.template copy<kWidth * 2>(to, tiles, step);
  }

  /// s = q · kᵀ of one tile, times `scale` and what int8 numbers stand for.
  template <typename Walk>
  SLA2_DEVICE void score(const Queries<kWidth, kProducts>& q, uint32_t tile, float scale, const Walk& walk, int32_t step_now) {
    using Sum = std::conditional_t<kProducts == Products::kBf16, float, int32_t>;
    const float of_tile = q.kInt8 && !walk.gathers() ? scale * walk.key_scale(step_now, 0) : scale;
#pragma unroll
    for (uint32_t n = 0; n < kTileKeys / 16; ++n) {
      Sum sum[2][4] = {};
#pragma unroll
      for (uint32_t step = 0; step < q.kSteps; ++step) {
        uint32_t b[4];
        load_columns<kTileKeys, kKeyRow>(tile, n * 16, step * 2, b);
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          if constexpr (kProducts == Products::kBf16)
            multiply_bf16(sum[half], q.a[step], b[2 * half], b[2 * half + 1]);
          else
            multiply_int8(sum[half], q.a[step], b[2 * half], b[2 * half + 1]);
        }
      }
      const float of_keys = q.kInt8 && walk.gathers() ? of_tile * walk.key_scale(step_now, n) : of_tile;
      const float factor[2] = {of_keys * q.scale[0], of_keys * q.scale[1]};
#pragma unroll
      for (int half = 0; half < 2; ++half)
#pragma unroll
        for (int i = 0; i < 4; ++i) s[2 * n + half][i] = static_cast<float>(sum[half][i]) * factor[i / 2];
    }
  }

  /// Adds the keys' bias and takes out keys from `columns` on.
  SLA2_DEVICE void mask(int64_t columns, const float* bias) {
    if (columns >= kTileKeys && bias == nullptr) return;
    const uint32_t t = thread_index() % 4;
#pragma unroll
    for (int n = 0; n < kTileKeys / 8; ++n)
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const auto column = static_cast<int64_t>(n) * 8 + 2 * t + i;
        float add = column < columns ? 0.0F : -infinity();
        if (bias != nullptr && column < columns) add = bias[column] * kLog2E;
        s[n][i] += add;
        s[n][i + 2] += add;
        if (column >= columns) s[n][i] = s[n][i + 2] = -infinity();  // also where the score was NaN
      }
  }

  /// Adds what place_bias left for each column; −∞ takes a column out, also where its score was NaN.
  SLA2_DEVICE void add_bias(uint32_t at) {
    const uint32_t t = thread_index() % 4;
#pragma unroll
    for (uint32_t n = 0; n < kTileKeys / 8; ++n)
#pragma unroll
      for (uint32_t i = 0; i < 2; ++i) {
        const auto bias = shared_load<float>(at + (n * 8 + 2 * t + i) * 4);
        const bool out = bias == -infinity();
        s[n][i] = out ? bias : s[n][i] + bias;
        s[n][i + 2] = out ? bias : s[n][i + 2] + bias;
      }
  }

  /// The maximum moves; l shrinks by `factor`, and o has to. `origin`: what weights are exponentials beyond.
  SLA2_DEVICE void raise(float (&factor)[2], float (&origin)[2]) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      float top = m[i];
#pragma unroll
      for (auto& part : s) top = largest(top, largest(part[2 * i], part[2 * i + 1]));
      top = quad_max(top);
      factor[i] = top == m[i] ? 1.0F : exp2_fast(m[i] - top);
      m[i] = top;
      l[i] *= factor[i];
      origin[i] = (top == -infinity() ? 0.0F : top) - (kFp8 ? kFp8Offset : 0.0F);
    }
  }
  SLA2_DEVICE void shrink(const float (&factor)[2]) {
    if (ballot(factor[0] != 1 || factor[1] != 1) == 0) return;
#pragma unroll
    for (int n = 0; n < kWidth / 8; ++n)  // counted, or the compiler leaves a loop over memory
#pragma unroll
      for (int i = 0; i < 4; ++i) o[n][i] *= factor[i / 2];
  }
  /// s becomes weights.
  SLA2_DEVICE void exponentiate(const float (&origin)[2]) {
#pragma unroll
    for (auto& part : s)
#pragma unroll
      for (int i = 0; i < 4; ++i) part[i] = exp2_fast(part[i] - origin[i / 2]);
  }
  SLA2_DEVICE void weigh() {
    float factor[2], origin[2];
    raise(factor, origin);
    shrink(factor);
    exponentiate(origin);
  }

  /// o += weights · v. Weights are rounded to bf16, and l sums the rounded ones.
  SLA2_DEVICE void add_values_bf16(uint32_t tile) {
#pragma unroll
    for (uint32_t step = 0; step < kTileKeys / 16; ++step) {
      uint32_t a[4];
#pragma unroll
      for (uint32_t i = 0; i < 4; ++i) {
        const auto& part = s[2 * step + i / 2];
        a[i] = pack_bf16(part[i % 2 * 2], part[i % 2 * 2 + 1]);
        l[i % 2] += from_bf16(a[i] & 0xFFFFU) + bits_to_float(a[i] & 0xFFFF0000U);
      }
#pragma unroll
      for (uint32_t n = 0; n < kWidth / 16; ++n) {
        uint32_t b[4];
        load_columns_transposed<kTileKeys, kWidth * 2>(tile, step * 16, n * 2, b);
        multiply_bf16(o[2 * n], a, b[0], b[1]);
        multiply_bf16(o[2 * n + 1], a, b[2], b[3]);
      }
    }
  }

  /// A tile's sums of e4m3 products: fp32 of fewer digits, or pairs of fp16.
  struct Fp8Sum {
    std::conditional_t<kHalfSums, uint32_t, float> x[kHalfSums ? 2 : 4];
    SLA2_DEVICE void multiply(const uint32_t (&weights)[4], uint32_t b0, uint32_t b1) { multiply_e4m3(x, weights, b0, b1); }
    [[nodiscard]] SLA2_DEVICE float at(int i) const {
      if constexpr (kHalfSums)
        return from_f16(static_cast<uint16_t>(x[i / 2] >> static_cast<uint32_t>(i % 2 * 16)));
      else
        return x[i];
    }
  };

  /// The same in e4m3: l sums what is not rounded, sums of 64 keys are short and are then added in fp32.
  SLA2_DEVICE void add_values_fp8(uint32_t tile) {
    uint32_t a[kTileKeys / 32][4];
#pragma unroll
    for (uint32_t step = 0; step < kTileKeys / 32; ++step)
#pragma unroll
      for (uint32_t i = 0; i < 4; ++i) {
        const auto &low = s[4 * step + i / 2 * 2], &high = s[4 * step + i / 2 * 2 + 1];
        const uint32_t row = i % 2 * 2;
        a[step][i] = pack_e4m3(low[row], low[row + 1]) | pack_e4m3(high[row], high[row + 1]) << 16U;
        l[i % 2] += (low[row] + low[row + 1]) + (high[row] + high[row + 1]);
      }
#pragma unroll
    for (uint32_t n = 0; n < kWidth / 16; ++n) {
      Fp8Sum sum[2] = {};
#pragma unroll
      for (uint32_t step = 0; step < kTileKeys / 32; ++step) {
        uint32_t b[4];
        load_columns<kWidth, kTileKeys>(tile, n * 16, step * 2, b);
        sum[0].multiply(a[step], b[0], b[1]);
        sum[1].multiply(a[step], b[2], b[3]);
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) o[2 * n][i] += sum[0].at(i), o[2 * n + 1][i] += sum[1].at(i);
    }
  }

  SLA2_DEVICE void add_values(uint32_t tile) {
    if constexpr (kFp8)
      add_values_fp8(tile);
    else
      add_values_bf16(tile);
  }

  /// l over all columns; fp8: scales taken back. value_scale [W] of the key head.
  SLA2_DEVICE void finish(const float* value_scale) {
    for (float& x : l) x = quad_sum(x);
    if constexpr (kFp8) {
      for (float& x : l) x *= 1 / kFp8Largest;
      const uint32_t t = thread_index() % 4;
#pragma unroll
      for (uint32_t n = 0; n < kWidth / 8; ++n)
#pragma unroll
        for (uint32_t i = 0; i < 4; ++i) o[n][i] *= value_scale[n * 8 + 2 * t + i % 2] * (1 / kFp8Largest);
    }
  }
};

}  // namespace sla2::cuda
