// SPDX-License-Identifier: Apache-2.0
// The softmax branch's gradient, seen from a key tile: four warps of 16 keys each, over the query blocks that keep it. Everything
// is transposed: Sᵀ = K·Qᵀ and dPᵀ = V·dOᵀ come out with keys as rows, and so are operands of dV = Pᵀ·dO and dK = s·dSᵀ·Q as
// they lie in the registers.
#pragma once
#include "kernels/cuda/backward_fragments.h"
#include "kernels/cuda/backward_walk.h"

namespace sla2::cuda {

inline constexpr uint32_t kKeyThreads = kTileKeys / kWarpRows * 32;

/// Shared memory: tile of K | tile of V | two stages of half a tile of Q and of dO.
template <int kWidth>
struct KeysMap {
  static constexpr uint32_t kTile = kTileKeys * kWidth * 2, kHalf = kTile / 2;
  static constexpr uint32_t kKeys = 0, kValues = kTile, kStream = 2 * kTile, kBytes = 4 * kTile;
};

/// part = 16 rows of a tile of keys · halfᵀ. Fragments of both come from shared memory: registers are for the sums.
template <int kWidth>
SLA2_DEVICE void multiply_tiles(uint32_t tile, uint32_t row, uint32_t half, Part& part) {
  const uint32_t lane = thread_index() % 32, matrix = lane / 8;
  part.clear();
#pragma unroll
  for (uint32_t step = 0; step < kWidth / 16; ++step) {
    uint32_t a[4];
    load_matrices(tile + image_offset(kTileKeys, kWidth * 2, row + matrix % 2 * 8 + lane % 8, (step * 2 + matrix / 2) * 16), a);
#pragma unroll
    for (uint32_t n = 0; n < 2; ++n) {
      uint32_t b[4];
      load_columns<kHalfRows, kWidth * 2>(half, n * 16, step * 2, b);
      multiply_bf16(part.x[2 * n], a, b[0], b[1]);
      multiply_bf16(part.x[2 * n + 1], a, b[2], b[3]);
    }
  }
}

template <int kWidth>
SLA2_DEVICE void key_gradients(const KeysParams& p) {
  using Map = KeysMap<kWidth>;
  const uint32_t warp = thread_index() / 32, t = thread_index() % 4;
  const int64_t key_head = block_y(), tiles = static_cast<int64_t>(p.columns.key_blocks) * p.tiles_per_block;
  const int64_t tile = key_head * tiles + block_x();
  const int32_t key_block = static_cast<int32_t>(block_x()) / p.tiles_per_block;
  const int32_t steps = ColumnWalk::count(p.columns, key_head, key_block) * p.columns.halves_per_block;
  HalfWalk walk{ColumnWalk(p.columns, key_head, key_block, false), p.query_tiles};
  const typename State<kWidth>::Source source{p.queries, p.gradients};
  int64_t ahead = 0;
  const auto start = [&](int32_t step) {
    if (step < steps) {
      ahead = walk.next();
      source.copy(Map::kStream + static_cast<uint32_t>(step % 2) * 2 * Map::kHalf, 0, ahead * kHalfRows, kHalfRows);
    }
    copy_async_commit();
  };
  copy_stretch(Map::kKeys, p.keys + tile * Map::kTile, Map::kTile);
  copy_stretch(Map::kValues, p.values + tile * Map::kTile, Map::kTile);
  start(0);
  float *const d_keys = p.d_keys + (tile * kTileKeys + kWarpRows * warp) * kWidth, *const d_values =
                                                                                       p.d_values +
                                                                                       (tile * kTileKeys + kWarpRows * warp) *
                                                                                           kWidth;
  float dk[kWidth / 8][4], dv[kWidth / 8][4];
  read_rows<kWidth>(p.add != 0 ? d_keys : nullptr, dk);
  read_rows<kWidth>(p.add != 0 ? d_values : nullptr, dv);
  for (int32_t step = 0; step < steps; ++step) {
    const int64_t first = ahead * kHalfRows;  // of the rows of statistics
    start(step + 1);
    copy_async_wait<1>();
    sync_threads();
    const uint32_t stage = Map::kStream + static_cast<uint32_t>(step % 2) * 2 * Map::kHalf;
    Part s, dp;
    multiply_tiles<kWidth>(Map::kKeys, kWarpRows * warp, stage, s);
    multiply_tiles<kWidth>(Map::kValues, kWarpRows * warp, stage + Map::kHalf, dp);
#pragma unroll
    for (uint32_t n = 0; n < kHalfRows / 8; ++n)
#pragma unroll
      for (uint32_t i = 0; i < 2; ++i) {
        const int64_t at = first + n * 8 + 2 * t + i;
        const float top = p.rows.top[at], weight = p.rows.weight[at], mean = p.rows.mean[at];
#pragma unroll
        for (uint32_t j = i; j < 4; j += 2) {
          float& x = s.x[n][j];
          x = exp2_fast(x * p.scale - top) * weight;
          dp.x[n][j] = x * (dp.x[n][j] - mean) * p.softmax_scale;
        }
      }
    add_product<kHalfRows, kWidth>(s, stage + Map::kHalf, 0, dv);
    add_product<kHalfRows, kWidth>(dp, stage, 0, dk);
    sync_threads();
  }
  copy_async_wait<0>();
  write_rows<kWidth>(dk, d_keys);
  write_rows<kWidth>(dv, d_values);
}

}  // namespace sla2::cuda
