// SPDX-License-Identifier: Apache-2.0
// Reading and writing the caller's tensors, element by element or in pairs; fp32 inside.
#pragma once
#include "kernels/cuda/arch.h"
#include "kernels/cuda/params.h"

namespace sla2::cuda {

struct Pair {
  float x, y;
};

/// What a block of threads works on: a query block (or a probe), and its head over the batch. The grid's own place; or one of
/// many in turn, where blocks of threads stay.
struct GridPlace {
  [[nodiscard]] SLA2_DEVICE uint32_t x() const { return block_x(); }
  [[nodiscard]] SLA2_DEVICE uint32_t head() const { return block_y(); }
};
struct TurnPlace {
  uint32_t number, of_head;
  [[nodiscard]] SLA2_DEVICE uint32_t x() const { return number; }
  [[nodiscard]] SLA2_DEVICE uint32_t head() const { return of_head; }
};

/// The number of the query block; probed ones are the middles of as many stretches (attention/outputs.cpp).
template <typename Place = GridPlace>
SLA2_DEVICE int32_t query_block(const AttendParams& p, const Place& at = {}) {
  const auto n = static_cast<int32_t>(at.x());
  if (p.probes == 0) return n;
  return static_cast<int32_t>((2 * static_cast<int64_t>(n) + 1) * p.query_blocks / (2 * static_cast<int64_t>(p.probes)));
}
/// Its row in lists and everything that has one number for each query block.
template <typename Place = GridPlace>
SLA2_DEVICE int64_t query_block_row(const AttendParams& p, const Place& at = {}) {
  return static_cast<int64_t>(at.head()) * p.query_blocks + query_block(p, at);
}

SLA2_DEVICE int64_t row_at(const Rows& rows, int64_t head, int64_t token) {
  return head / rows.heads * rows.stride_batch + head % rows.heads * rows.stride_head + token * rows.stride_token;
}

SLA2_DEVICE float from_bf16(uint32_t bits) { return bits_to_float(bits << 16U); }

SLA2_DEVICE float load_element(const Rows& rows, int64_t at) {
  if (rows.element == kElementF32) return static_cast<const float*>(rows.data)[at];
  const uint16_t bits = static_cast<const uint16_t*>(rows.data)[at];
  return rows.element == kElementBf16 ? from_bf16(bits) : from_f16(bits);
}

/// Channels `channel` (even) and the next, 0 from `dim` (a multiple of 8) on; `row` from row_at.
SLA2_DEVICE Pair load_pair(const Rows& rows, int64_t row, int32_t channel, int32_t dim) {
  if (channel >= dim) return {0, 0};
  const int64_t at = row + channel;
  if (rows.pairs == 0) return {load_element(rows, at), load_element(rows, at + 1)};
  if (rows.element == kElementF32) {
    const float* const two = static_cast<const float*>(rows.data) + at;
    return {two[0], two[1]};
  }
  const uint32_t bits = *reinterpret_cast<const uint32_t*>(static_cast<const uint16_t*>(rows.data) + at);
  if (rows.element == kElementBf16) return {from_bf16(bits & 0xFFFFU), bits_to_float(bits & 0xFFFF0000U)};
  return {from_f16(static_cast<uint16_t>(bits)), from_f16(static_cast<uint16_t>(bits >> 16U))};
}

/// Two neighbouring channels from an even one on, in one of five ways that are chosen once per kernel (store_way).
enum class Store : int { kF32, kBf16Pairs, kF16Pairs, kBf16, kF16 };
SLA2_DEVICE Store store_way(const Rows& rows) {
  if (rows.element == kElementF32) return Store::kF32;
  if (rows.element == kElementBf16) return rows.pairs != 0 ? Store::kBf16Pairs : Store::kBf16;
  return rows.pairs != 0 ? Store::kF16Pairs : Store::kF16;
}
template <Store kWay>
SLA2_DEVICE void store_pair(const Rows& rows, int64_t at, Pair value) {
  if constexpr (kWay == Store::kF32) {
    static_cast<float*>(rows.data)[at] = value.x;
    static_cast<float*>(rows.data)[at + 1] = value.y;
  } else {
    constexpr bool kIsBf16 = kWay == Store::kBf16 || kWay == Store::kBf16Pairs;
    const uint32_t bits = kIsBf16 ? pack_bf16(value.x, value.y) : to_f16(value.x) | static_cast<uint32_t>(to_f16(value.y)) << 16U;
    uint16_t* const to = static_cast<uint16_t*>(rows.data) + at;
    if constexpr (kWay == Store::kBf16Pairs || kWay == Store::kF16Pairs)
      *reinterpret_cast<uint32_t*>(to) = bits;
    else
      to[0] = static_cast<uint16_t>(bits), to[1] = static_cast<uint16_t>(bits >> 16U);
  }
}

// Sums and maxima over the 4 lanes that share a row of a fragment, and over a warp; every lane gets the same bits.
SLA2_DEVICE float quad_max(float x) {
  x = largest(x, shuffle_xor(x, 1));
  return largest(x, shuffle_xor(x, 2));
}
SLA2_DEVICE float quad_sum(float x) {
  x += shuffle_xor(x, 1);
  return x + shuffle_xor(x, 2);
}
SLA2_DEVICE float warp_max(float x) {
  for (uint32_t mask = 1; mask < 32; mask *= 2) x = largest(x, shuffle_xor(x, mask));
  return x;
}
SLA2_DEVICE float warp_sum(float x) {
  for (uint32_t mask = 1; mask < 32; mask *= 2) x += shuffle_xor(x, mask);
  return x;
}

inline constexpr float kLog2E = 1.44269504F, kLn2 = 0.693147181F;
inline constexpr float kLeast = 1e-35F, kInt8Steps = 127, kFp8Largest = 448;  // as kernels/attend_int8.h, attend_fp8.h

SLA2_DEVICE float infinity() { return bits_to_float(0x7F800000U); }
SLA2_DEVICE float not_a_number() { return bits_to_float(0x7FC00000U); }
SLA2_DEVICE bool is_finite(float x) { return x - x == 0; }
/// To the nearest even step of top / 127; what is not finite becomes 0.
SLA2_DEVICE int32_t int8_steps(float x, float inverse) { return is_finite(x) ? to_nearest(x * inverse) : 0; }

SLA2_DEVICE float gelu_tanh(float v) {
  constexpr float kTwice = 2 * 0.7978845608F, kCubic = 0.044715F;  // tanh(u) = 1 - 2 / (1 + exp(2u))
  return v / (1 + exp2_fast(-kLog2E * kTwice * (v + kCubic * v * v * v)));
}
SLA2_DEVICE float silu(float v) { return v / (1 + exp2_fast(-kLog2E * v)); }

}  // namespace sla2::cuda
