// SPDX-License-Identifier: Apache-2.0
// Which key blocks a query block reads, and how their tiles come into shared memory. Blocks of 64 keys or more are whole tiles;
// smaller ones lie several to a tile and are gathered: a block's rows keep their place modulo 8 and with it the exchange of
// chunks.
#pragma once
#include "kernels/cuda/fragments.h"
#include "kernels/cuda/rows.h"

namespace sla2::cuda {

/// Key blocks of this query block, ascending; `list` null: 0 … count - 1.
struct ListedBlocks {
  const int32_t* list;
  int32_t count, all;
  [[nodiscard]] SLA2_DEVICE int32_t at(int32_t i) const { return list == nullptr ? i : list[i]; }
};

template <typename Place = GridPlace>
SLA2_DEVICE ListedBlocks kept_blocks(const AttendParams& p, const Place& at = {}) {
  if (p.join == kJoinLinear) return {nullptr, 0, p.key_blocks};
  if (p.list == nullptr) return {nullptr, p.key_blocks, p.key_blocks};
  return {p.list + query_block_row(p, at) * p.capacity, p.count[query_block_row(p, at)], p.key_blocks};
}

/// Those that the linear branch does not see.
template <typename Place = GridPlace>
SLA2_DEVICE ListedBlocks blocks_apart(const AttendParams& p, const Place& at = {}) {
  if (p.apart == nullptr) return {nullptr, 0, p.key_blocks};
  return {p.apart + query_block_row(p, at) * p.apart_capacity, p.apart_count[query_block_row(p, at)], p.key_blocks};
}

/// Walks the listed blocks, or the others, in ascending order.
struct BlockWalk {
  ListedBlocks listed;
  bool others;
  int32_t place = 0, block = 0;
  SLA2_DEVICE int32_t next() {
    if (!others) return listed.at(place++);
    while (place < listed.count && listed.list[place] == block) ++place, ++block;
    return block++;
  }
};

/// `count` keys from key `from` of the head's tiles into the image of kRows rows at `to`, as its rows from `row` on. Both are
/// multiples of 16 and the keys lie in one tile.
template <int kRows, int kRowBytes>
SLA2_DEVICE void copy_rows(uint32_t to, uint32_t row, const unsigned char* tiles, int64_t from, uint32_t count) {
  constexpr uint32_t kLine = kRowBytes < 128 ? kRowBytes : 128;
  const unsigned char* const source = tiles + from / kTileKeys * (kTileKeys * kRowBytes) + from % kTileKeys * kLine;
#pragma unroll 1
  for (uint32_t panel = 0; panel < kRowBytes / kLine; ++panel)
    copy_stretch(to + (panel * kRows + row) * kLine, source + panel * kTileKeys * kLine, count * kLine);
}
/// Zeros in their place: what is not there must not be NaN, because 0 · NaN is.
template <int kRows, int kRowBytes>
SLA2_DEVICE void clear_rows(uint32_t to, uint32_t row, uint32_t count) {
  constexpr uint32_t kLine = kRowBytes < 128 ? kRowBytes : 128;
#pragma unroll 1
  for (uint32_t panel = 0; panel < kRowBytes / kLine; ++panel)
    for (uint32_t at = thread_index() * 4; at < count * kLine; at += thread_count() * 4)
      shared_store<uint32_t>(to + (panel * kRows + row) * kLine + at, 0);
}

/// The same for transposed tiles of bytes, kChannels rows of 64 keys: a row's 16 keys are one chunk. `from` < 0: zeros.
template <int kChannels>
SLA2_DEVICE void copy_transposed(uint32_t to, uint32_t key, const unsigned char* tiles, int64_t from, uint32_t count) {
  const uint32_t chunks = count / 16;
  for (uint32_t i = thread_index(); i < kChannels * chunks; i += thread_count()) {
    const uint32_t channel = i / chunks, part = i % chunks * 16;
    const uint32_t target = to + image_offset(kChannels, kTileKeys, channel, key + part);
    if (from >= 0) {
      const unsigned char* const tile = tiles + from / kTileKeys * (kTileKeys * kChannels);
      copy_async_16(target, tile + image_offset(kChannels, kTileKeys, channel, static_cast<uint32_t>(from % kTileKeys) + part));
    } else {
      for (uint32_t word = 0; word < 16; word += 4) shared_store<uint32_t>(target + word, 0);
    }
  }
}

/// The softmax branch's tiles in order: those of the kept blocks, then those of mean keys where there may be any.
template <bool kMeans>
struct TileWalk {
  const AttendParams& p;
  ListedBlocks kept;
  int32_t key_head, listed;  ///< listed: tiles of kept blocks

  template <typename Place = GridPlace>
  SLA2_DEVICE TileWalk(const AttendParams& params, int64_t head, const Place& at = {})
      : p(params), kept(kept_blocks(params, at)), key_head(static_cast<int32_t>(head)) {
    listed = gathers() ? (kept.count + p.blocks_per_tile - 1) / p.blocks_per_tile : kept.count * p.tiles_per_block;
  }
  [[nodiscard]] SLA2_DEVICE int32_t steps() const { return kMeans ? listed + p.mean_tiles : listed; }
  [[nodiscard]] SLA2_DEVICE bool gathers() const { return p.blocks_per_tile > 1; }
  [[nodiscard]] SLA2_DEVICE bool is_mean(int32_t step) const { return kMeans && step >= listed; }
  /// Of a step that is one whole tile: its number in the head.
  [[nodiscard]] SLA2_DEVICE int64_t tile(int32_t step) const {
    if (is_mean(step)) return p.key_tiles + step - listed;
    return static_cast<int64_t>(kept.at(step / p.tiles_per_block)) * p.tiles_per_block + step % p.tiles_per_block;
  }
  /// Keys that the step's tile holds: the last listed block alone may be short, and it comes last.
  [[nodiscard]] SLA2_DEVICE int64_t columns(int32_t step) const {
    if (!gathers()) return p.key_tokens - tile(step) * kTileKeys;
    const int32_t first = step * p.blocks_per_tile, left = kept.count - first;
    const int32_t filled = left < p.blocks_per_tile ? left : p.blocks_per_tile;
    const int64_t rows = p.key_tokens - static_cast<int64_t>(kept.at(first + filled - 1)) * p.block_k;
    return static_cast<int64_t>(filled - 1) * p.block_k + (rows < p.block_k ? rows : p.block_k);
  }
  /// int8: the step of the keys in columns 16 · n …
  [[nodiscard]] SLA2_DEVICE float key_scale(int32_t step, uint32_t n) const {
    const float* const scales = p.key_scale + static_cast<int64_t>(key_head) * p.scales;
    if (is_mean(step)) return scales[p.key_blocks + step - listed];
    if (!gathers()) return scales[kept.at(step / p.tiles_per_block)];
    const int32_t place = step * p.blocks_per_tile + static_cast<int32_t>(n) * 16 / p.block_k;
    return scales[kept.at(place < kept.count ? place : kept.count - 1)];
  }

  /// Tiles [key][byte] of kRowBytes.
  template <int kRowBytes>
  SLA2_DEVICE void copy(uint32_t to, const unsigned char* tiles, int32_t step) const {
    constexpr int kTile = kTileKeys * kRowBytes;
    if (!gathers() || is_mean(step)) return copy_stretch(to, tiles + tile(step) * kTile, kTile);
    for (int32_t slot = 0; slot < p.blocks_per_tile; ++slot) {
      const int32_t place = step * p.blocks_per_tile + slot;
      const auto row = static_cast<uint32_t>(slot * p.block_k), count = static_cast<uint32_t>(p.block_k);
      if (place < kept.count)
        copy_rows<kTileKeys, kRowBytes>(to, row, tiles, static_cast<int64_t>(kept.at(place)) * p.block_k, count);
      else
        clear_rows<kTileKeys, kRowBytes>(to, row, count);
    }
  }
  /// Tiles [channel][key] of bytes.
  template <int kChannels>
  SLA2_DEVICE void copy_values8(uint32_t to, const unsigned char* tiles, int32_t step) const {
    constexpr int kTile = kTileKeys * kChannels;
    if (!gathers() || is_mean(step)) return copy_stretch(to, tiles + tile(step) * kTile, kTile);
    for (int32_t slot = 0; slot < p.blocks_per_tile; ++slot) {
      const int32_t place = step * p.blocks_per_tile + slot;
      const int64_t from = place < kept.count ? static_cast<int64_t>(kept.at(place)) * p.block_k : -1;
      copy_transposed<kChannels>(to, static_cast<uint32_t>(slot * p.block_k), tiles, from, static_cast<uint32_t>(p.block_k));
    }
  }
};

}  // namespace sla2::cuda
