// SPDX-License-Identifier: Apache-2.0
// The linear branch's gradient seen from a key block. A = Σ Gᵀ·dO over the query blocks whose linear branch sees it is made as
// the forward makes H: totals minus the others, or what is left added up, whichever are fewer. Then dV = φ(K)·A and dφ(K) = V·Aᵀ
// + b, b = Σ dZ; the mean of V goes with b, for V·A_c + b_c nearly cancels.
#pragma once
#include "kernels/cuda/backward_fragments.h"
#include "kernels/cuda/backward_walk.h"

namespace sla2::cuda {

/// Shared memory: b | mean of V | b + A·mean | A, and before it the stages of its walk.
template <int kWidth>
struct LinearKeysMap {
  static constexpr uint32_t kZ = 0, kMean = kWidth * 4, kLine = 2 * kWidth * 4;
  static constexpr uint32_t kState = (3 * kWidth * 4 + 1023) / 1024 * 1024, kStateBytes = kWidth * kWidth * 2;
  static constexpr uint32_t kBytes = kState + (kStateBytes > stream_bytes(kWidth) ? kStateBytes : stream_bytes(kWidth));
};

template <int kWidth>
struct LinearKeys {
  using Map = LinearKeysMap<kWidth>;
  static constexpr uint32_t kRowBytes = kWidth * 2;
  const LinearKeysParams& p;
  int64_t key_head, first;  ///< first key
  int32_t block, inside;    ///< inside: keys that exist
  uint32_t warp, g, t;

  SLA2_DEVICE explicit LinearKeys(const LinearKeysParams& params)
      : p(params), key_head(block_y()), block(static_cast<int32_t>(block_x())) {
    first = static_cast<int64_t>(block) * p.block_k;
    const int64_t left = p.key_tokens - first;
    inside = left < p.block_k ? static_cast<int32_t>(left) : p.block_k;
    warp = thread_index() / 32, g = thread_index() % 32 / 4, t = thread_index() % 4;
  }

  struct Plan {
    int32_t blocks;
    bool others, subtract;
  };
  [[nodiscard]] SLA2_DEVICE Plan plan() const {
    if (p.everywhere != 0) return {0, false, true};
    const int32_t kept = ColumnWalk::count(p.columns, key_head, block);
    const int32_t rest = p.columns.heads_per_key * p.columns.query_blocks - kept;
    return kept <= rest ? Plan{kept, false, true} : Plan{rest, true, false};
  }

  [[nodiscard]] SLA2_DEVICE const unsigned char* value_tile() const {
    return p.values + (key_head * p.columns.key_blocks + block) * static_cast<int64_t>(p.block_k) * kRowBytes;
  }

  /// b and the mean value of the block.
  SLA2_DEVICE void sum_lines(const Plan& plan) const {
    for (uint32_t c = thread_index(); c < kWidth; c += thread_count()) {
      TwoSum sum;
      if (plan.subtract) sum.high = p.z_total[key_head * 2 * kWidth + c], sum.low = p.z_total[(key_head * 2 + 1) * kWidth + c];
      ColumnWalk walk(p.columns, key_head, block, plan.others);
      for (int32_t i = 0; i < plan.blocks; ++i) {
        const float x = p.d_z[walk.next() * kWidth + c];
        sum.add(plan.subtract ? -x : x);
      }
      sum.add(p.floor_total[key_head * kWidth + c]);
      shared_store<float>(Map::kZ + c * 4, sum.value());
      float mean = 0;
      for (int32_t row = 0; row < inside; ++row)
        mean += from_bf16(*reinterpret_cast<const uint16_t*>(
            value_tile() + row / kTileKeys * kTileKeys * kRowBytes +
            image_offset(kTileKeys, kRowBytes, static_cast<uint32_t>(row % kTileKeys), c * 2)));
      shared_store<float>(Map::kMean + c * 4, mean / static_cast<float>(inside));
    }
  }

  /// Halves of G and dO stream through two stages.
  SLA2_DEVICE void add_up(const Plan& plan, bool active, State<kWidth>& state) const {
    HalfWalk walk{ColumnWalk(p.columns, key_head, block, plan.others), p.query_tiles};
    const typename State<kWidth>::Source source{p.shares, p.gradients};
    const auto fill = [&](uint32_t stage) { source.copy(stage, 0, walk.next() * kHalfRows, kHalfRows); };
    state.add(Map::kState, static_cast<uint32_t>(plan.blocks * p.columns.halves_per_block), active, warp, fill);
  }

  /// A as a bf16 image, and b + A·mean in fp32.
  SLA2_DEVICE void make_state() const {
    const Plan plan = this->plan();
    const bool active = warp < kWidth / 16;
    sum_lines(plan);
    State<kWidth> state;
    state.clear();
    add_up(plan, active, state);
    sync_threads();  // b and the mean are there
    if (active) {
      const float* const total = p.state_total + (key_head * kWidth + warp * 16) * kWidth;
      float dot[2] = {0, 0};
#pragma unroll
      for (uint32_t n = 0; n < kWidth / 8; ++n)
#pragma unroll
        for (uint32_t i = 0; i < 4; i += 2) {
          const uint32_t row = g + i * 4, column = n * 8 + 2 * t;
          float x = state.sum[n][i], y = state.sum[n][i + 1];
          if (plan.subtract) x = total[row * kWidth + column] - x, y = total[row * kWidth + column + 1] - y;
          dot[i / 2] += x * shared_load<float>(Map::kMean + column * 4) + y * shared_load<float>(Map::kMean + column * 4 + 4);
          shared_store<uint32_t>(Map::kState + image_offset(kWidth, kRowBytes, warp * 16 + row, column * 2), pack_bf16(x, y));
        }
#pragma unroll
      for (uint32_t i = 0; i < 2; ++i) {
        const uint32_t c = (warp * 16 + g + 8 * i) * 4;
        const float line = quad_sum(dot[i]) + shared_load<float>(Map::kZ + c);
        if (t == 0) shared_store<float>(Map::kLine + c, line);
      }
    }
    sync_threads();
  }

  /// 16 keys from `row` of the block on.
  SLA2_DEVICE void rows(int32_t row) const {
    float phi[kWidth / 8][4];
    int64_t at[2];
    for (int i = 0; i < 2; ++i) {
      const int32_t mine = row + static_cast<int32_t>(g) + 8 * i;
      at[i] = mine < inside ? row_at(p.k, key_head, first + mine) : -1;
    }
    load_pairs(p.k, at, p.dim, phi);
    if (p.shift != nullptr) {
#pragma unroll
      for (uint32_t n = 0; n < kWidth / 8; ++n)
#pragma unroll
        for (uint32_t i = 0; i < 4; ++i)
          if (static_cast<int32_t>(n * 8) < p.dim)
            phi[n][i] = add_rounded(phi[n][i], -p.shift[key_head * p.dim + n * 8 + 2 * t + i % 2]);
    }
    make_features(at, p.dim, phi);
    const int64_t out = ((key_head * p.columns.key_blocks + block) * p.block_k + row) * kWidth;
    write_values(phi, p.d_values + out);

    float gradient[kWidth / 8][4];
    LeftRows<kWidth> values;
    values.load(value_tile(), row);
#pragma unroll
    for (uint32_t step = 0; step < kWidth / 16; ++step)
#pragma unroll
      for (uint32_t i = 0; i < 4; ++i) {
        const uint32_t mean = Map::kMean + (step * 16 + i / 2 * 8 + 2 * t) * 4;
        uint32_t& bits = values.a[step][i];
        bits = at[i % 2] < 0 ? 0
                             : pack_bf16(from_bf16(bits & 0xFFFFU) - shared_load<float>(mean),
                                         bits_to_float(bits & 0xFFFF0000U) - shared_load<float>(mean + 4));
      }
#pragma unroll
    for (uint32_t n = 0; n < kWidth / 16; ++n) {
      float two[2][4] = {};
#pragma unroll
      for (uint32_t step = 0; step < kWidth / 16; ++step) {
        uint32_t b[4];
        load_columns<kWidth, kRowBytes>(Map::kState, n * 16, step * 2, b);
        multiply_bf16(two[0], values.a[step], b[0], b[1]);
        multiply_bf16(two[1], values.a[step], b[2], b[3]);
      }
#pragma unroll
      for (uint32_t i = 0; i < 4; ++i) {
        const uint32_t line = Map::kLine + (n * 16 + 2 * t + i % 2) * 4;
        gradient[2 * n][i] = two[0][i] + shared_load<float>(line);
        gradient[2 * n + 1][i] = two[1][i] + shared_load<float>(line + 32);
      }
    }
    through_features(phi, gradient);
    write_rows<kWidth>(gradient, p.d_keys + out);
  }

  /// φ(K)·A.
  SLA2_DEVICE void write_values(const float (&phi)[kWidth / 8][4], float* out) const {
    uint32_t a[kWidth / 16][4];
#pragma unroll
    for (uint32_t step = 0; step < kWidth / 16; ++step)
#pragma unroll
      for (uint32_t i = 0; i < 4; ++i) {
        const auto& four = phi[2 * step + i / 2];
        a[step][i] = pack_bf16(four[i % 2 * 2], four[i % 2 * 2 + 1]);
      }
#pragma unroll
    for (uint32_t n = 0; n < kWidth / 16; ++n) {
      float two[2][4] = {};
#pragma unroll
      for (uint32_t step = 0; step < kWidth / 16; ++step) {
        uint32_t b[4];
        load_columns_transposed<kWidth, kRowBytes>(Map::kState, step * 16, n * 2, b);
        multiply_bf16(two[0], a[step], b[0], b[1]);
        multiply_bf16(two[1], a[step], b[2], b[3]);
      }
#pragma unroll
      for (uint32_t i = 0; i < 4; ++i) {
        float* const to = out + (g + i / 2 * 8) * kWidth + n * 16 + 2 * t + i % 2;
        to[0] = two[0][i], to[8] = two[1][i];
      }
    }
  }
};

/// W / 16 warps or more.
template <int kWidth>
SLA2_DEVICE void linear_keys(const LinearKeysParams& p) {
  const LinearKeys<kWidth> keys(p);
  keys.make_state();
  for (int32_t row = static_cast<int32_t>(keys.warp) * kWarpRows; row < p.block_k;
       row += static_cast<int32_t>(thread_count() / 32) * kWarpRows)
    keys.rows(row);
}

}  // namespace sla2::cuda
