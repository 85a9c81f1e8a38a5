// SPDX-License-Identifier: Apache-2.0
// Walks of the backward: key tiles in pairs of K and V for a query block, query blocks of a whole group of heads for a key block.
#pragma once
#include "kernels/cuda/attend.h"
#include "kernels/cuda/backward_params.h"

namespace sla2::cuda {

/// Tiles of K and V of the kept blocks, two stages of both in shared memory from 0 on.
template <int kWidth>
struct TilePairs {
  static constexpr uint32_t kTile = kTileKeys * kWidth * 2;
  static constexpr uint32_t kBytes = 4 * kTile;

  /// body(keys, values, columns): where the two are, how many keys there are from the tile's first on. All threads take part.
  template <typename Body>
  static SLA2_DEVICE void walk(const AttendParams& p, int64_t key_head, Body&& body) {
    const ListedBlocks kept = kept_blocks(p);
    const int64_t head_at = key_head * p.tiles * static_cast<int64_t>(kTile);
    const unsigned char *const keys = p.keys + head_at, *const values = p.values + head_at;
    const int32_t steps = kept.count * p.tiles_per_block;
    const auto tile_at = [&](int32_t step) {
      return static_cast<int64_t>(kept.at(step / p.tiles_per_block)) * p.tiles_per_block + step % p.tiles_per_block;
    };
    const auto start = [&](int32_t step) {
      if (step < steps) {
        const uint32_t stage = static_cast<uint32_t>(step % 2) * 2 * kTile;
        copy_stretch(stage, keys + tile_at(step) * kTile, kTile);
        copy_stretch(stage + kTile, values + tile_at(step) * kTile, kTile);
      }
      copy_async_commit();
    };
    start(0);
    for (int32_t step = 0; step < steps; ++step) {
      start(step + 1);
      copy_async_wait<1>();
      sync_threads();
      const uint32_t stage = static_cast<uint32_t>(step % 2) * 2 * kTile;
      body(stage, stage + kTile, p.key_tokens - tile_at(step) * kTileKeys);
      sync_threads();
    }
    copy_async_wait<0>();
  }
};

/// The query blocks, over the heads that share a key head, that keep a key block; or the others. Ascending, head by head.
struct ColumnWalk {
  const Columns& c;
  int64_t first_head;
  int32_t key_block;
  bool others;
  int32_t head = -1, place = 0, end = 0, block = 0;

  SLA2_DEVICE ColumnWalk(const Columns& columns, int64_t key_head, int32_t j, bool not_kept)
      : c(columns), first_head(key_head * columns.heads_per_key), key_block(j), others(not_kept) {
    open();
  }
  /// How many keep it.
  [[nodiscard]] static SLA2_DEVICE int32_t count(const Columns& c, int64_t key_head, int32_t j) {
    if (c.begin == nullptr) return c.heads_per_key * c.query_blocks;
    int32_t sum = 0;
    for (int64_t h = key_head * c.heads_per_key; h < (key_head + 1) * c.heads_per_key; ++h) {
      const int32_t* const at = c.begin + h * (c.key_blocks + 1) + j;
      sum += at[1] - at[0];
    }
    return sum;
  }
  /// Head and block of the next one; asked no more often than there are blocks. Counted over all heads: head · T_m + block.
  SLA2_DEVICE int64_t next() {
    if (others) {
      for (;;) {
        if (block == c.query_blocks) open();
        if (place == end || index()[place] != block) break;
        ++place, ++block;
      }
    } else {
      while (place == end) open();
      block = c.begin == nullptr ? place : index()[place];
      ++place;
    }
    const int64_t at = (first_head + head) * c.query_blocks + block;
    if (others) ++block;
    return at;
  }

 private:
  [[nodiscard]] SLA2_DEVICE const int32_t* index() const {
    return c.index + (first_head + head) * c.query_blocks * static_cast<int64_t>(c.most);
  }
  SLA2_DEVICE void open() {
    ++head, block = 0, place = 0, end = c.query_blocks;
    if (c.begin == nullptr || head >= c.heads_per_key) return;
    const int32_t* const at = c.begin + (first_head + head) * (c.key_blocks + 1) + key_block;
    place = at[0], end = at[1];
  }
};

/// The same in halves of query tiles: where each lies, counted in halves over all heads.
struct HalfWalk {
  ColumnWalk walk;
  int32_t query_tiles, half = 0;
  int64_t at = 0;
  SLA2_DEVICE int64_t next() {
    const Columns& c = walk.c;
    if (half == 0) {
      const int64_t block = walk.next();
      at = block / c.query_blocks * 2 * query_tiles + block % c.query_blocks * c.halves_per_block;
    }
    const int64_t here = at + half;
    half = half + 1 == c.halves_per_block ? 0 : half + 1;
    return here;
  }
};

}  // namespace sla2::cuda
