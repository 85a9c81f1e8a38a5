// SPDX-License-Identifier: Apache-2.0
// φ(K)ᵀ·V over a walk of keys: the state of the linear branch. Half tiles stream through two stages; each warp owns 16 channels
// of φ (rows of the state) and all channels of V.
#pragma once
#include "kernels/cuda/walk.h"

namespace sla2::cuda {

template <int kWidth>
struct State {
  static constexpr int kRowBytes = kWidth * 2;
  static constexpr uint32_t kHalf = kStreamKeys * kRowBytes;  ///< bytes of a half tile in shared memory
  static constexpr uint32_t kTile = kTileKeys * kRowBytes;    ///< of a tile in global memory

  float sum[kWidth / 8][4];  ///< [16, W] of this warp's rows

  SLA2_DEVICE void clear() {
    for (auto& part : sum)
      for (float& x : part) x = 0;
  }

  /// The tiles of φ(K) and V of a head.
  struct Source {
    const unsigned char *features, *values;
    /// `count` keys from key `from` on into rows of a stage.
    SLA2_DEVICE void copy(uint32_t stage, uint32_t row, int64_t from, uint32_t count) const {
      copy_rows<kStreamKeys, kRowBytes>(stage, row, features, from, count);
      copy_rows<kStreamKeys, kRowBytes>(stage + kHalf, row, values, from, count);
    }
    static SLA2_DEVICE void clear(uint32_t stage, uint32_t row, uint32_t count) {
      clear_rows<kStreamKeys, kRowBytes>(stage, row, count);
      clear_rows<kStreamKeys, kRowBytes>(stage + kHalf, row, count);
    }
  };

  /// sum += φᵀ·V of one stage; warp_row: which 16 channels of φ. weights: of each 16 keys, or null.
  SLA2_DEVICE void add_stage(uint32_t stage, uint32_t warp_row, const float* weights) {
#pragma unroll
    for (uint32_t key = 0; key < kStreamKeys; key += 16) {
      uint32_t a[4];
      load_left_transposed<kStreamKeys, kRowBytes>(stage, key, warp_row * 2, a);
      if (weights != nullptr)
        for (uint32_t& two : a)
          two = pack_bf16(from_bf16(two & 0xFFFFU) * weights[key / 16], bits_to_float(two & 0xFFFF0000U) * weights[key / 16]);
#pragma unroll
      for (uint32_t column = 0; column < kWidth / 16; ++column) {
        uint32_t b[4];
        load_columns_transposed<kStreamKeys, kRowBytes>(stage + kHalf, key, column * 2, b);
        multiply_bf16(sum[2 * column], a, b[0], b[1]);
        multiply_bf16(sum[2 * column + 1], a, b[2], b[3]);
      }
    }
  }

  /// Adds `steps` stages; fill(stage) starts the copies of the next one; with kWeighted it has weights for it. All threads of the
  /// block take part; `active`: whether this warp has rows. Ends with every stage read and no copy under way.
  template <bool kWeighted = false, typename Fill>
  SLA2_DEVICE void add(uint32_t stream, uint32_t steps, bool active, uint32_t warp_row, Fill& fill) {
    for (uint32_t step = 0; step <= steps; ++step) {
      if constexpr (kWeighted) fill.pass();
      if (step < steps) fill(stream + step % 2 * 2 * kHalf);
      copy_async_commit();
      if (step == 0) continue;
      copy_async_wait<1>();
      sync_threads();
      const float* weights = nullptr;
      if constexpr (kWeighted) weights = fill.before;
      if (active) add_stage(stream + (step - 1) % 2 * 2 * kHalf, warp_row, weights);
      sync_threads();
    }
    copy_async_wait<0>();
  }
};

/// Sum in two fp32 numbers that adds without losing what fp32 cuts off (Knuth's two-sum).
struct TwoSum {
  float high = 0, low = 0;
  SLA2_DEVICE void add(float x) {
    const float sum = add_rounded(high, x), rest = add_rounded(sum, -high);
    const float error = add_rounded(add_rounded(high, -add_rounded(sum, -rest)), add_rounded(x, -rest));
    high = sum;
    low = add_rounded(low, error);
  }
  [[nodiscard]] SLA2_DEVICE float value() const { return add_rounded(high, low); }
};

}  // namespace sla2::cuda
