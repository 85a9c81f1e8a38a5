// SPDX-License-Identifier: Apache-2.0
// What attention with bf16 and with eight-bit Q·K share, for files of AVX-512 + BF16 only: tiles of scores in registers become
// bf16 weights and their sums, and weights times values.
//
// Sizes. A tile is 4 rows x 64 columns: 16 accumulators, 4 registers of the right-hand side, and the softmax of a tile is
// short enough (16 vectors) to overlap with the products of the next one in the reorder buffer; 6 x 64 needs fewer loads
// but was 2 % slower for that reason. One key block of 64 x 128 is 16 KB of values (and 16 or 8 KB of keys): each stays in L1
// while all rows pass. Logits never leave registers: they become weights in bf16 (16 KB for 128 x 64).
#pragma once
#include "kernels/cpu/bf16_vectors.h"

namespace sla2::kernels::avx512_bf16 {
namespace {

/// Args: AttendBf16 or AttendInt8.
template <typename Args>
struct Tile {
  const Args& a;
  int64_t acc_row;
  bool first;  ///< no key block before this one: acc holds nothing
};

/// The maximum of `row` is now `top`: what was summed before shrinks.
template <typename Args>
__attribute__((noinline)) Vec move_maximum(const Tile<Args>& tile, int64_t row, float top, Vec sums) {
  float& m = tile.a.m[row];
  if (m != kNone) {
    const Vec factor = exp2_weight(_mm512_set1_ps(m - top));
    sums = _mm512_mul_ps(sums, factor);
    float* const acc = tile.a.acc + row * tile.acc_row;
    if (!tile.first)
      for (int64_t c = 0; c < tile.acc_row; c += kLanes)
        _mm512_storeu_ps(acc + c, _mm512_mul_ps(_mm512_loadu_ps(acc + c), factor));
  }
  m = top;
  return sums;
}

/// One row of a tile: weights 2^(scale · s (+ bias) - m) in bf16 and their sums.
template <int vecs, bool biased, typename Args>
__attribute__((always_inline)) inline void weigh_row(const Tile<Args>& tile, int64_t row, Vec* s, Vec scale, const float* bias,
                                                     bf16_t* out) {
  const Args& a = tile.a;
  // Scaled and rounded before the maximum is taken off, so that no difference is positive, however large the logits.
#pragma GCC unroll 8
  for (int v = 0; v < vecs; ++v)
    s[v] = biased ? _mm512_fmadd_ps(s[v], scale, _mm512_loadu_ps(bias + v * kLanes)) : _mm512_mul_ps(s[v], scale);
  Vec top = s[0];
#pragma GCC unroll 8
  for (int v = 1; v < vecs; ++v) top = _mm512_max_ps(s[v], top);
  float& m = a.m[row];
  Vec sums = _mm512_loadu_ps(a.sums + row * kLanes);
  // The maximum moves a few times per row in all. A lazy one (only when exceeded by 2^8) was no faster and had up to
  // four times the error, because then the largest weight is no longer exactly 1.
  if (_mm512_cmp_ps_mask(top, _mm512_set1_ps(m), _CMP_GT_OQ) != 0) [[unlikely]]
    sums = move_maximum(tile, row, _mm512_reduce_max_ps(top), sums);
  const Vec origin = _mm512_set1_ps(m == kNone ? 0.0F : m);
  const Pairs ones = reinterpret_cast<Pairs>(_mm512_set1_epi32(0x3f803f80));
  Vec p[vecs + vecs % 2];
#pragma GCC unroll 8
  for (int v = 0; v < vecs; ++v) p[v] = exp2_weight(_mm512_sub_ps(s[v], origin));
  if constexpr (vecs % 2 == 1) p[vecs] = _mm512_setzero_ps();
#pragma GCC unroll 8
  for (int v = 0; v < vecs; v += 2) {
    const Pairs w = _mm512_cvtne2ps_pbh(p[v + 1], p[v]);
    sums = _mm512_dpbf16_ps(sums, w, ones);
    if (v + 1 < vecs) {
      _mm512_storeu_si512(out + v * kLanes, reinterpret_cast<__m512i>(w));
    } else {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + v * kLanes), _mm512_castsi512_si256(reinterpret_cast<__m512i>(w)));
    }
  }
  _mm512_storeu_ps(a.sums + row * kLanes, sums);
}

/// acc (+)= P·V of rows_count x 16·vecs channels over `keys` keys.
template <int rows_count, int vecs>
void add_values(bool first, int64_t keys, const bf16_t* weights, int64_t weight_row, const bf16_t* values, int64_t acc_row,
                float* acc) {
  const int64_t line = 2 * acc_row;
  Vec o[rows_count][vecs];
#pragma GCC unroll 8
  for (int r = 0; r < rows_count; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < vecs; ++v) o[r][v] = first ? _mm512_setzero_ps() : _mm512_loadu_ps(acc + r * acc_row + v * kLanes);
  for (int64_t t = 0; t < keys; t += 2, values += line) {
    Pairs b[vecs];
#pragma GCC unroll 8
    for (int v = 0; v < vecs; ++v) b[v] = load_pairs(values + v * 2 * kLanes);
#pragma GCC unroll 8
    for (int r = 0; r < rows_count; ++r) {
      const Pairs x = reinterpret_cast<Pairs>(broadcast_32(weights + r * weight_row + t));
#pragma GCC unroll 8
      for (int v = 0; v < vecs; ++v) o[r][v] = _mm512_dpbf16_ps(o[r][v], x, b[v]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < rows_count; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < vecs; ++v) _mm512_storeu_ps(acc + r * acc_row + v * kLanes, o[r][v]);
}

using AddValues = void (*)(bool, int64_t, const bf16_t*, int64_t, const bf16_t*, int64_t, float*);
#define SLA2_ROW_COUNTS(name, ...) \
  { name<1, __VA_ARGS__>, name<2, __VA_ARGS__>, name<3, __VA_ARGS__>, name<4, __VA_ARGS__> }
constexpr AddValues kAddValues[kVecs][kRows] = {SLA2_ROW_COUNTS(add_values, 1), SLA2_ROW_COUNTS(add_values, 2),
                                                SLA2_ROW_COUNTS(add_values, 3), SLA2_ROW_COUNTS(add_values, 4)};

/// All key blocks of the list. weigh(tile, block j, rows, row, vectors of keys, first key, bias or null) leaves weights.
template <typename Args, typename Weigh>
inline void attend_blocks(const Args& a, const Weigh& weigh) {
  Tile<Args> tile{a, whole_lanes(a.dim), true};
  for (int64_t r = 0; r < a.rows; ++r) a.m[r] = kNone;
  for (int64_t i = 0; i < a.rows * kLanes; ++i) a.sums[i] = 0;
  for (int64_t i = 0; i < a.count; ++i) {
    const int64_t j = a.list == nullptr ? i : a.list[i];
    const int64_t keys = least(a.block_k, a.keys - j * a.block_k);
    const bf16_t* const value_block = a.value_blocks + j * a.block_k * tile.acc_row;
    const float* bias = nullptr;
    if (a.bias != nullptr) {
      bias = a.bias + j * a.block_k;
    } else if (keys < a.block_k) {
      bias = a.tail_bias;
    }
    for (int64_t t = 0; t < keys; t += kColumns) {
      const int64_t columns = least(kColumns, keys - t);
      weigh(tile, j, t, whole_lanes(columns) / kLanes, bias == nullptr ? nullptr : bias + t);
      for (int64_t c = 0; c < tile.acc_row; c += kColumns) {
        const AddValues* const add_rows = kAddValues[least(kColumns, tile.acc_row - c) / kLanes - 1];
        for (int64_t r = 0; r < a.rows; r += kRows)
          add_rows[least(kRows, a.rows - r) - 1](tile.first, columns, a.weights + r * a.block_k, a.block_k,
                                                 value_block + t * tile.acc_row + 2 * c, tile.acc_row,
                                                 a.acc + r * tile.acc_row + c);
      }
      tile.first = false;
    }
  }
  for (int64_t r = 0; r < a.rows; ++r) a.l[r] = _mm512_reduce_add_ps(_mm512_loadu_ps(a.sums + r * kLanes));
}

}  // namespace
}  // namespace sla2::kernels::avx512_bf16
