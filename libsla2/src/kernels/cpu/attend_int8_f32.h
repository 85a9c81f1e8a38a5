// SPDX-License-Identifier: Apache-2.0
// Attention with eight-bit Q·K and P·V in fp32, for vectors of N floats: for AVX2 and AVX-512 files only, where there are no bf16
// products. Weights are rounded to bf16 and values widened from it. A few rows at a time against one key block; logits and
// weights of a tile stay in L1.
#pragma once
#include <utility>

#include "kernels/attend_int8.h"
#include "kernels/cpu/exp2.h"

namespace sla2::kernels {
namespace {

constexpr int64_t kInt8MaxDim = 256, kInt8MaxBlock = 128;
constexpr int64_t kInt8Panel = 16;  // channels that P·V keeps in registers; rows of acc are a multiple of it
constexpr float kNoKey = -__builtin_inff();
/// Rows of a tile: P·V has 12 of AVX2's 16 registers or 8 of AVX-512's 32 as accumulators. Both hide the latency of an FMA.
template <size_t N>
inline constexpr int kInt8Rows = N == 8 ? 6 : 8;

template <size_t N>
using FloatVec = hn::Vec<hn::FixedTag<float, N>>;
template <size_t N>
using IntVec = hn::Vec<hn::FixedTag<int32_t, N>>;

/// Bytes multiply exactly only as 16-bit numbers (VPMADDUBSW saturates): keys are widened while they are loaded, a tile's queries
/// once. A register of sums holds N/2 keys, two sums each.
template <size_t N>
struct WordProducts {
  static constexpr size_t kLanes = N;
  using Query = int16_t;
  static constexpr hn::FixedTag<int16_t, 2 * N> kWords{};
  using Keys = hn::Vec<hn::FixedTag<int16_t, 2 * N>>;
  struct Sum {
    IntVec<N> low, high;
  };
  static HWY_INLINE void widen(const int8_t* q, int64_t dim, Query* out) {
    const hn::FixedTag<int16_t, 8> words;
    const hn::FixedTag<int8_t, 8> bytes;
    for (int64_t c = 0; c < dim; c += 8) hn::Store(hn::PromoteTo(words, hn::LoadU(bytes, q + c)), words, out + c);
  }
  static HWY_INLINE Keys low(const uint8_t* keys) {
    return hn::PromoteTo(kWords, hn::LoadU(hn::FixedTag<uint8_t, 2 * N>(), keys));
  }
  static HWY_INLINE Keys high(const uint8_t* keys) { return low(keys + 2 * N); }
  static HWY_INLINE Sum zero() {
    const hn::FixedTag<int32_t, N> tag;
    return {hn::Zero(tag), hn::Zero(tag)};
  }
  /// Written out for AVX2, because GCC 12 makes the products of all rows before it adds the first: more than there are registers.
  /// AVX-512 has enough of them, and is 5 % faster with GCC's order.
  static HWY_INLINE void add_products(IntVec<N>& sum, Keys k, Keys q) {
    IntVec<N> other = hn::Zero(hn::FixedTag<int32_t, N>());
    if constexpr (N == 8) {
      __asm__("vpmaddwd %3, %2, %1\n\tvpaddd %1, %0, %0" : "+v"(sum.raw), "=&v"(other.raw) : "v"(k.raw), "v"(q.raw));
    } else {
      sum = hn::ReorderWidenMulAccumulate(hn::FixedTag<int32_t, N>(), k, q, sum, other);
    }
  }
  static HWY_INLINE void add(Sum& sum, Keys low, Keys high, const Query* q) {
    int64_t four = 0;
    __builtin_memcpy(&four, q, sizeof four);
    const auto x = hn::BitCast(kWords, hn::Set(hn::FixedTag<int64_t, N / 2>(), four));
    add_products(sum.low, low, x);
    add_products(sum.high, high, x);
  }
  static HWY_INLINE IntVec<N> total(const Sum& sum) {
    const hn::FixedTag<int32_t, N> tag;
    return hn::Add(hn::ConcatEven(tag, sum.high, sum.low), hn::ConcatOdd(tag, sum.high, sum.low));
  }
};

#if defined(__AVX512VNNI__)
/// VPDPBUSD multiplies bytes as they are and sums four products per lane: N keys in a register of sums.
template <size_t N>
struct ByteProducts {
  static constexpr size_t kLanes = N;
  using Query = int8_t;
  using Keys = IntVec<N>;
  using Sum = IntVec<N>;
  static HWY_INLINE void widen(const int8_t* q, int64_t dim, Query* out) { __builtin_memcpy(out, q, static_cast<size_t>(dim)); }
  static HWY_INLINE Keys low(const uint8_t* keys) {
    return hn::LoadU(hn::FixedTag<int32_t, N>(), reinterpret_cast<const int32_t*>(keys));
  }
  static HWY_INLINE bool high(const uint8_t* /*keys*/) { return false; }  // all are in `low`
  static HWY_INLINE Sum zero() { return hn::Zero(hn::FixedTag<int32_t, N>()); }
  /// Written out, because GCC 12 copies every sum around its intrinsic.
  static HWY_INLINE void add(Sum& sum, Keys keys, bool /*high*/, const Query* q) {
    int32_t four = 0;
    __builtin_memcpy(&four, q, sizeof four);
    const auto x = hn::Set(hn::FixedTag<int32_t, N>(), four);
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sum.raw) : "v"(keys.raw), "v"(x.raw));
  }
  static HWY_INLINE IntVec<N> total(const Sum& sum) { return sum; }
};
#endif

template <typename Products>
struct Int8Tile {
  static constexpr size_t kLanes = Products::kLanes;
  alignas(64) typename Products::Query q[kInt8Rows<kLanes>][kInt8MaxDim];
  alignas(64) float x[kInt8Rows<kLanes>][kInt8MaxBlock];  ///< logits, then weights
};

/// To the nearest bf16, ties to even; NaN stays.
template <size_t N>
HWY_INLINE FloatVec<N> round_to_bf16(FloatVec<N> x) {
  const hn::FixedTag<float, N> tag;
  const hn::FixedTag<uint32_t, N> plain;
  const auto bits = hn::BitCast(plain, x);
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(plain, 1U));
  const auto up = hn::Add(bits, hn::Add(odd, hn::Set(plain, 0x7fffU)));
  const auto rounded = hn::BitCast(tag, hn::And(up, hn::Set(plain, 0xffff0000U)));
  return hn::IfThenElse(hn::IsNaN(x), x, rounded);
}

/// Logits of `rows` rows against as many keys as a vector has lanes.
template <typename Products, int rows>
void multiply_keys(const AttendInt8& a, int64_t row, const uint8_t* keys, float key_scale, const float* bias, int64_t first,
                   Int8Tile<Products>& tile) {
  const hn::FixedTag<float, Products::kLanes> tag;
  const hn::FixedTag<int32_t, Products::kLanes> sum_tag;
  typename Products::Sum sum[rows];
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r) sum[r] = Products::zero();
  for (int64_t c = 0; c < a.dim; c += 4, keys += 4 * a.block_k) {
    const auto low = Products::low(keys);
    const auto high = Products::high(keys);
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) Products::add(sum[r], low, high, tile.q[r] + c);
  }
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r) {
    const auto s = hn::ConvertTo(tag, hn::Add(Products::total(sum[r]), hn::Set(sum_tag, a.q_offset[row + r])));
    const auto scale = hn::Set(tag, a.scale * a.q_scale[row + r] * key_scale);
    const auto x = bias == nullptr ? hn::Mul(s, scale) : hn::MulAdd(s, scale, hn::LoadU(tag, bias + first));
    hn::Store(x, tag, tile.x[r] + first);
  }
}

/// Logits of one row to weights; maximum, sum and acc of the row move along.
template <size_t N>
void weigh_row(const AttendInt8& a, int64_t row, int64_t keys, int64_t width, float* x) {
  const hn::FixedTag<float, N> tag;
  constexpr int64_t kLanes = static_cast<int64_t>(N);
  auto top = hn::Set(tag, kNoKey);
  for (int64_t t = 0; t < keys; t += kLanes) top = hn::Max(hn::Load(tag, x + t), top);  // NaN: the second operand
  const float largest = hn::GetLane(hn::MaxOfLanes(tag, top));
  float& m = a.m[row];
  if (largest > m) {
    if (m != kNoKey) {
      const auto factor = exp2_nonpositive(hn::Set(tag, m - largest));
      a.l[row] *= hn::GetLane(factor);
      float* const acc = a.acc + row * width;
      for (int64_t c = 0; c < width; c += kLanes) hn::StoreU(hn::Mul(hn::LoadU(tag, acc + c), factor), tag, acc + c);
    }
    m = largest;
  }
  const auto origin = hn::Set(tag, m == kNoKey ? 0.0F : m);
  auto sum = hn::Zero(tag);
  for (int64_t t = 0; t < keys; t += kLanes) {
    const auto weight = round_to_bf16<N>(exp2_nonpositive(hn::Sub(hn::Load(tag, x + t), origin)));
    hn::Store(weight, tag, x + t);
    sum = hn::Add(sum, weight);
  }
  a.l[row] += hn::GetLane(hn::SumOfLanes(tag, sum));
}

/// acc += P·V of `rows` rows x 16 channels.
template <typename Products, int rows>
void add_values(const Int8Tile<Products>& tile, int64_t keys, const bf16_t* values, int64_t width, float* acc) {
  constexpr size_t N = Products::kLanes;
  const hn::FixedTag<float, N> tag;
  const hn::FixedTag<uint32_t, N> pairs;
  constexpr int64_t kLanes = static_cast<int64_t>(N);
  constexpr int kVectors = static_cast<int>(kInt8Panel / kLanes);
  FloatVec<N> sum[rows][kVectors];
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) sum[r][v] = hn::LoadU(tag, acc + r * width + v * kLanes);
  for (int64_t t = 0; t < keys; t += 2, values += 2 * width)
#pragma GCC unroll 2
    for (int odd = 0; odd < 2; ++odd) {
      __asm__ volatile("" ::: "memory");  // or GCC loads for both keys at once: more than there are registers
      FloatVec<N> value[kVectors];
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) {
        const auto both = hn::LoadU(pairs, reinterpret_cast<const uint32_t*>(values) + v * kLanes);
        value[v] = hn::BitCast(tag, odd == 0 ? hn::ShiftLeft<16>(both) : hn::ShiftLeft<16>(hn::ShiftRight<16>(both)));
      }
#pragma GCC unroll 8
      for (int r = 0; r < rows; ++r) {
        const auto weight = hn::Set(tag, tile.x[r][t + odd]);
#pragma GCC unroll 2
        for (int v = 0; v < kVectors; ++v) sum[r][v] = hn::MulAdd(weight, value[v], sum[r][v]);
      }
    }
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) hn::StoreU(sum[r][v], tag, acc + r * width + v * kLanes);
}

/// `rows` rows against key block j, of which `keys` keys are there.
template <typename Products, int rows>
void attend_tile(const AttendInt8& a, int64_t row, int64_t j, int64_t keys, int64_t width, Int8Tile<Products>& tile) {
  const float* bias = nullptr;
  if (a.bias != nullptr) {
    bias = a.bias + j * a.block_k;
  } else if (keys < a.block_k) {
    bias = a.tail_bias;
  }
  for (int r = 0; r < rows; ++r) Products::widen(a.q + (row + r) * a.dim, a.dim, tile.q[r]);
  for (int64_t t = 0; t < keys; t += static_cast<int64_t>(Products::kLanes))
    multiply_keys<Products, rows>(a, row, a.key_blocks + j * a.block_k * a.dim + 4 * t, a.key_scale[j], bias, t, tile);
  for (int r = 0; r < rows; ++r) weigh_row<Products::kLanes>(a, row + r, keys, width, tile.x[r]);
  for (int64_t c = 0; c < width; c += kInt8Panel)
    add_values<Products, rows>(tile, keys, a.value_blocks + j * a.block_k * width + 2 * c, width, a.acc + row * width + c);
}

template <typename Products>
using Int8TileOp = void (*)(const AttendInt8&, int64_t, int64_t, int64_t, int64_t, Int8Tile<Products>&);
/// Tiles of 1, 2 … rows.
template <typename Products, typename Rows>
struct Int8Tiles;
template <typename Products, int... before>
struct Int8Tiles<Products, std::integer_sequence<int, before...>> {
  static constexpr Int8TileOp<Products> kOf[] = {nullptr, attend_tile<Products, before + 1>...};
};

template <typename Products>
void attend_int8_with(const AttendInt8& a) {
  constexpr int64_t kMost = kInt8Rows<Products::kLanes>;
  using Tiles = Int8Tiles<Products, std::make_integer_sequence<int, kInt8Rows<Products::kLanes>>>;
  const int64_t width = (a.dim + kInt8Panel - 1) / kInt8Panel * kInt8Panel;
  for (int64_t r = 0; r < a.rows; ++r) a.m[r] = kNoKey, a.l[r] = 0;
  for (int64_t i = 0; i < a.rows * width; ++i) a.acc[i] = 0;
  Int8Tile<Products> tile;
  for (int64_t i = 0; i < a.count; ++i) {
    const int64_t j = a.list == nullptr ? i : a.list[i], left = a.keys - j * a.block_k;
    const int64_t keys = left < a.block_k ? left : a.block_k;
    for (int64_t row = 0; row < a.rows;) {
      const int64_t rest = a.rows - row;  // a little more than a tile is cut in halves, as in panel_gemm.h
      const int64_t rows = rest <= kMost ? rest : rest <= kMost + kMost / 3 ? (rest + 1) / 2 : kMost;
      Tiles::kOf[rows](a, row, j, keys, width, tile);
      row += rows;
    }
  }
}

}  // namespace
}  // namespace sla2::kernels
