// SPDX-License-Identifier: Apache-2.0
// Every size of the mma.sync family, with its reason, and how tiles lie in memory.
//
// A tile image is what shared memory holds, byte for byte, so that loading one is copying a stretch: rows of 128 bytes (64 where
// a row has no more) in panels [panel][row][128], 16-byte chunks of a row exchanged by the row's number. The exchange is that of
// Hopper's 128-byte (64-byte) swizzle: eight rows' chunks of one column fall into eight different groups of banks.
#pragma once
#include <cstdint>

namespace sla2::cuda {

inline constexpr int kTileKeys = 64;  ///< b_k of SLA2; a block of 128 is two tiles
inline constexpr int kWarpRows = 16;  ///< of queries: the rows of one mma; with 32, O and scores alone would take 192 registers
inline constexpr int kMaxQueries = 128;  ///< a block of threads serves one query block: 8 warps
inline constexpr int kMaxThreads = kMaxQueries / kWarpRows * 32;
inline constexpr int kStreamKeys =
    32;  ///< the linear branch streams half tiles: two stages of φ(K) and V are then 32 KB at W 128
inline constexpr int kPrepareThreads = 128;
inline constexpr uint32_t kScratchBytes =
    1024;  ///< φ-sums, 2·W fp32; with H and two fp8 tiles 49 KB: two blocks on 100 KB of shared memory

/// Of Q·Kᵀ and P·V: all bf16; int8 and bf16; int8 and e4m3 with fp32 sums; the same with the sums of a tile in fp16.
enum class Products : int { kBf16, kInt8, kInt8Fp8, kInt8Fp8Half };

constexpr bool has_fp8(Products products) { return products == Products::kInt8Fp8 || products == Products::kInt8Fp8Half; }

constexpr int key_bytes(Products products) { return products == Products::kBf16 ? 2 : 1; }
constexpr int value_bytes(Products products) { return has_fp8(products) ? 1 : 2; }

/// What the largest value of a channel becomes in e4m3. Sums in fp16 take 64 keys: weights of 448 times values of 2.25 make
/// 64512, and fp16 ends at 65504.
constexpr float fp8_values_top(Products products) { return products == Products::kInt8Fp8Half ? 2.25F : 448.0F; }
static_assert(kTileKeys * 448 * fp8_values_top(Products::kInt8Fp8Half) <= 65504);

/// Shared memory of sla2_attend: scratch | H [W][W] bf16 with a linear branch | one key tile | one value tile. Before and after
/// the walk over tiles queries pass through the place of the two: 16 rows per warp, φ(Q) in panels of 128 bytes. Biases of a
/// tile's columns stand in the scratch, which only a linear branch needs; beside it, behind all.
struct AttendMap {
  uint32_t state, keys, values, bias, bytes;
};
constexpr AttendMap attend_map(int width, Products products, bool linear) {
  const auto w = static_cast<uint32_t>(width);
  AttendMap map{};
  map.state = kScratchBytes;
  map.keys = map.state + (linear ? w * w * 2 : 0);
  map.values = map.keys + kTileKeys * w * static_cast<uint32_t>(key_bytes(products));
  map.bytes = map.values + kTileKeys * w * static_cast<uint32_t>(value_bytes(products));
  const uint32_t queries = map.keys + kMaxQueries * w * static_cast<uint32_t>(key_bytes(products));
  const uint32_t features = map.keys + (linear ? kMaxQueries * 128 : 0);
  if (map.bytes < queries) map.bytes = queries;
  if (map.bytes < features) map.bytes = features;
  if (linear && products == Products::kBf16) map.bias = map.bytes, map.bytes += kTileKeys * 4;  // soft masks: never in 8 bits
  return map;
}
/// Two stages of φ(K) and V, kStreamKeys each, bf16.
constexpr uint32_t stream_bytes(int width) { return 2 * 2 * kStreamKeys * static_cast<uint32_t>(width) * 2; }

/// sla2_pack: rows of φ on their way to z, or two words per warp.
constexpr uint32_t pack_bytes(int block_k, int width) { return static_cast<uint32_t>(block_k * width * 2); }

/// Shared memory of sla2_route: scores [places] fp64 | pooled query, another [D] fp64 | two words per warp | extra.
struct RouteMap {
  uint32_t places, scores, query, other, words, extra, bytes;
};
/// places: T_n, or where scores are ranked the power of two above. extra: a mark of 2 bytes per block of a given list, or fp64
/// per row of the query block where its likeness is asked for.
constexpr RouteMap route_map(int places, int dim, int extra_bytes) {
  RouteMap map{};
  const auto d = static_cast<uint32_t>(dim);
  map.places = static_cast<uint32_t>(places);
  map.query = map.places * 8;
  map.other = map.query + d * 8;
  map.words = map.other + d * 8;
  map.extra = map.words + 2 * kPrepareThreads / 32 * 4;
  map.bytes = map.extra + static_cast<uint32_t>(extra_bytes);
  return map;
}

/// Byte `byte` of row `row` in an image of `rows` rows of `row_bytes` (64, 128 or 256).
constexpr uint32_t image_offset(uint32_t rows, uint32_t row_bytes, uint32_t row, uint32_t byte) {
  if (row_bytes == 64) return row * 64 + ((byte / 16) ^ (row / 2 % 4)) * 16 + byte % 16;
  return byte / 128 * rows * 128 + row * 128 + ((byte % 128 / 16) ^ (row % 8)) * 16 + byte % 16;
}

/// fp8 values are transposed [channel][key]; keys are permuted inside each 16 so that a lane's softmax weights of two score
/// fragments are one operand register: place 4t + i holds key 2t + i % 2 + 8·(i / 2).
constexpr uint32_t fp8_place(uint32_t key) {
  const uint32_t in = key % 16;
  return key - in + in % 8 / 2 * 4 + in % 2 + in / 8 * 2;
}

}  // namespace sla2::cuda
