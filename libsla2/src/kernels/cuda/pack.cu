// SPDX-License-Identifier: Apache-2.0
// Pass 2 over keys and values: tiles as the products read them, φ(K) and its column sums. One block of threads per key block; a
// warp takes a row at a time, a lane pairs of channels.
#include "kernels/cuda/rows.h"
#include "kernels/cuda/tiles.h"

namespace sla2::cuda {
namespace {

constexpr int kMostPairs = 2;  // of channels per lane: W is at most 128

struct Position {
  uint32_t warp, lane, warps;
  int64_t block, head, first;
  int32_t rows;  ///< filled rows of the key block
  int32_t fill;  ///< rows to write: zeros after the filled ones, in the last block to the end of its tile
  int64_t row;   ///< the block's first row in the tiles of all heads
  int64_t scale;
  [[nodiscard]] SLA2_DEVICE int64_t tile(int32_t r) const { return (row + r) / kTileKeys; }
  [[nodiscard]] SLA2_DEVICE uint32_t in_tile(int32_t r) const { return static_cast<uint32_t>((row + r) % kTileKeys); }
};

SLA2_DEVICE Position position(const PackParams& p) {
  Position at{};
  at.warp = thread_index() / 32, at.lane = thread_index() % 32, at.warps = thread_count() / 32;
  at.block = block_x(), at.head = block_y(), at.first = at.block * p.block_k;
  const int64_t left = p.key_tokens - at.first;
  at.rows = left < p.block_k ? static_cast<int32_t>(left) : p.block_k;
  at.row = (at.head * p.tiles + p.first_tile) * kTileKeys + at.first;
  at.scale = at.head * p.scales + p.first_scale + at.block;
  const auto short_by = static_cast<int32_t>((kTileKeys - (at.first + p.block_k) % kTileKeys) % kTileKeys);
  at.fill = p.block_k + (at.block + 1 == p.key_blocks ? short_by : 0);
  return at;
}

/// A row's channels 2·lane, 2·lane + 1 and those 64 further on.
struct Line {
  Pair x[kMostPairs];
};

SLA2_DEVICE Line load_line(const Rows& rows, const Position& at, int32_t row, int32_t dim, const float* shift) {
  Line line{};
  const int64_t from = row_at(rows, at.head, at.first + row);
  for (int i = 0; i < kMostPairs; ++i) {
    const auto channel = static_cast<int32_t>(2 * at.lane + 64 * static_cast<uint32_t>(i));
    line.x[i] = load_pair(rows, from, channel, dim);
    if (shift != nullptr && channel < dim) {
      line.x[i].x = add_rounded(line.x[i].x, -shift[channel]);
      line.x[i].y = add_rounded(line.x[i].y, -shift[channel + 1]);
    }
  }
  return line;
}

/// A line of bf16 into the image of its tile.
SLA2_DEVICE void store_bf16(unsigned char* tiles, const PackParams& p, const Position& at, int32_t row, const Line& line) {
  const auto row_bytes = static_cast<uint32_t>(p.width * 2);
  unsigned char* const tile = tiles + at.tile(row) * kTileKeys * row_bytes;
  for (int i = 0; i < kMostPairs; ++i) {
    const uint32_t byte = 4 * at.lane + 128 * static_cast<uint32_t>(i);
    if (byte < row_bytes)
      *reinterpret_cast<uint32_t*>(tile + image_offset(kTileKeys, row_bytes, at.in_tile(row), byte)) =
          pack_bf16(line.x[i].x, line.x[i].y);
  }
}

/// The block's keys in int8 steps of their largest magnitude; scale NaN if anything is not finite.
SLA2_DEVICE void pack_int8(const PackParams& p, const Position& at, const float* shift) {
  float top = 0;
  bool finite = true;
  for (auto row = static_cast<int32_t>(at.warp); row < at.rows; row += static_cast<int32_t>(at.warps)) {
    const Line line = load_line(p.k, at, row, p.dim, shift);
    for (const Pair& pair : line.x)
      for (const float x : {pair.x, pair.y}) {
        finite = finite && is_finite(x);
        if (is_finite(x)) top = largest(top, x < 0 ? -x : x);
      }
  }
  top = warp_max(top);
  const bool all = ballot(finite) == 0xFFFFFFFFU;
  if (at.lane == 0) shared_store<float>(8 * at.warp, top), shared_store<uint32_t>(8 * at.warp + 4, all ? 1 : 0);
  sync_threads();
  finite = true;
  for (uint32_t w = 0; w < at.warps; ++w) {
    top = largest(top, shared_load<float>(8 * w));
    finite = finite && shared_load<uint32_t>(8 * w + 4) != 0;
  }
  if (thread_index() == 0) p.key_scale[at.scale] = !finite ? not_a_number() : top < kLeast ? 0.0F : top / kInt8Steps;
  const float inverse = top < kLeast ? 0.0F : kInt8Steps / top;
  const auto row_bytes = static_cast<uint32_t>(p.width);
  for (auto row = static_cast<int32_t>(at.warp); row < at.fill; row += static_cast<int32_t>(at.warps)) {
    Line line{};
    if (row < at.rows) line = load_line(p.k, at, row, p.dim, shift);
    unsigned char* const tile = p.keys + at.tile(row) * kTileKeys * row_bytes;
    for (int i = 0; i < kMostPairs; ++i) {
      const uint32_t byte = 2 * at.lane + 64 * static_cast<uint32_t>(i);
      if (byte >= row_bytes) continue;
      const int32_t low = int8_steps(line.x[i].x, inverse), high = int8_steps(line.x[i].y, inverse);
      *reinterpret_cast<uint16_t*>(tile + image_offset(kTileKeys, row_bytes, at.in_tile(row), byte)) =
          static_cast<uint16_t>((low & 0xFF) | (high & 0xFF) << 8);
    }
  }
}

/// Values as e4m3, transposed: a thread takes a channel.
SLA2_DEVICE void pack_fp8(const PackParams& p, const Position& at) {
  const float* const scales = p.value_scale + at.head * p.width;
  for (auto c = static_cast<int32_t>(thread_index()); c < p.width; c += static_cast<int32_t>(thread_count())) {
    const float scale = scales[c], inverse = scale == 0 ? 0.0F : 1 / scale;
    for (int32_t row = 0; row < at.fill; ++row) {
      float x = row < at.rows && c < p.dim ? load_element(p.v, row_at(p.v, at.head, at.first + row) + c) : 0.0F;
      x = is_finite(x) ? x * inverse : not_a_number();
      unsigned char* const tile = p.values8 + at.tile(row) * kTileKeys * p.width;
      tile[image_offset(static_cast<uint32_t>(p.width), kTileKeys, static_cast<uint32_t>(c), fp8_place(at.in_tile(row)))] =
          static_cast<unsigned char>(pack_e4m3(x, 0));
    }
  }
}

/// φ of a line: softmax over the channels; zeros beyond `dim`.
SLA2_DEVICE Line features_of(const Line& line, uint32_t lane, int32_t dim) {
  float top = -infinity(), sum = 0;
  Line phi{};
  for (int i = 0; i < kMostPairs; ++i)
    if (static_cast<int32_t>(2 * lane) + 64 * i < dim) top = largest(top, largest(line.x[i].x, line.x[i].y));
  top = warp_max(top);
  for (int i = 0; i < kMostPairs; ++i)
    if (static_cast<int32_t>(2 * lane) + 64 * i < dim) {
      phi.x[i] = {exp2_fast((line.x[i].x - top) * kLog2E), exp2_fast((line.x[i].y - top) * kLog2E)};
      sum += phi.x[i].x + phi.x[i].y;
    }
  const float scale = 1 / warp_sum(sum);
  for (Pair& pair : phi.x) pair = {pair.x * scale, pair.y * scale};
  return phi;
}

/// Tiles of φ(K), and z: each channel's sum of what is stored, in row order.
SLA2_DEVICE void pack_features(const PackParams& p, const Position& at, const float* shift) {
  const auto row_bytes = static_cast<uint32_t>(p.width * 2);
  for (auto row = static_cast<int32_t>(at.warp); row < at.fill; row += static_cast<int32_t>(at.warps)) {
    Line phi{};
    if (row < at.rows) phi = features_of(load_line(p.k, at, row, p.dim, shift), at.lane, p.dim);
    store_bf16(p.features, p, at, row, phi);
    for (int i = 0; i < kMostPairs; ++i) {
      const uint32_t byte = 4 * at.lane + 128 * static_cast<uint32_t>(i);
      if (byte < row_bytes)
        shared_store<uint32_t>(static_cast<uint32_t>(row) * row_bytes + byte, pack_bf16(phi.x[i].x, phi.x[i].y));
    }
  }
  sync_threads();
  for (uint32_t c = thread_index(); c < static_cast<uint32_t>(p.width); c += thread_count()) {
    float sum = 0;
    for (int32_t row = 0; row < at.rows; ++row)
      sum += from_bf16(shared_load<uint16_t>(static_cast<uint32_t>(row) * row_bytes + 2 * c));
    p.z[(at.head * p.key_blocks + at.block) * p.width + c] = sum;
  }
}

}  // namespace

SLA2_KERNEL(sla2_pack, kPrepareThreads, 1, PackParams) {
  const Position at = position(p);
  const float* const shift = p.shift == nullptr ? nullptr : p.shift + at.head * p.dim;
  for (auto row = static_cast<int32_t>(at.warp); row < at.fill; row += static_cast<int32_t>(at.warps)) {
    Line value{}, key{};
    if (row < at.rows) value = load_line(p.v, at, row, p.dim, nullptr), key = load_line(p.k, at, row, p.dim, shift);
    if (p.values != nullptr) store_bf16(p.values, p, at, row, value);
    if (p.key_scale == nullptr && p.keys != nullptr) store_bf16(p.keys, p, at, row, key);
  }
  if (p.values8 != nullptr) pack_fp8(p, at);
  if (p.key_scale != nullptr) {
    pack_int8(p, at, shift);
    sync_threads();
  }
  if (p.features != nullptr) pack_features(p, at, p.smooth_features != 0 ? shift : nullptr);
}

}  // namespace sla2::cuda
