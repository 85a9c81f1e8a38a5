// SPDX-License-Identifier: Apache-2.0
// What attention with bf16 and with eight-bit Q·K share, for files of AVX-512 + BF16 only: tiles of scores in registers become
// bf16 weights and their sums, and weights times values.
//
// Sizes: kernels/tiles.h. One key block of 64 x 128 is 16 KB of values (and 16 or 8 KB of keys): each stays in L1 while all rows
// pass. Logits never leave registers: they become weights in bf16 (16 KB for 128 x 64).
#pragma once
#include "kernels/cpu/bf16_vectors.h"

namespace sla2::kernels::avx512_bf16 {
namespace {

constexpr int64_t kGroup = kWeighedRows;

/// The maximum of `row` is now `top`: what was summed before shrinks.
template <typename Args>
__attribute__((noinline)) void move_maximum(const Args& a, int64_t row, float top, bool first) {
  float& m = a.m[row];
  if (m != kNone) {
    const Vec factor = exp2_weight(_mm512_set1_ps(m - top));
    const auto shrink = [factor](float* at) { _mm512_storeu_ps(at, _mm512_mul_ps(_mm512_loadu_ps(at), factor)); };
    shrink(a.sums + row * kLanes);
    const int64_t width = whole_lanes(a.dim);
    if (!first)
      for (int64_t c = 0; c < width; c += kLanes) shrink(a.acc + row * width + c);
  }
  m = top;
}

/// Some columns of one key block. Args: AttendBf16 or AttendInt8.
template <typename Args>
struct Columns {
  const Args& a;
  int64_t block;      ///< j
  const void* keys;   ///< line 0 of the columns; lines are 4 · block_k bytes apart, one for every 4 bytes of a query
  const float* bias;  ///< [columns] or null
  bool first;         ///< no columns before these: acc holds nothing
  const char *next_keys, *next_values;  ///< of the next block in the list, to prefetch: lists jump, and hardware does not follow

  /// A few of its cache lines, in turn as rows pass.
  __attribute__((always_inline)) inline void prefetch(int64_t row) const {
    constexpr int64_t kLines = 8, kLine = 64;
#pragma GCC unroll 8
    for (int64_t i = 0; i < kLines; ++i) {
      _mm_prefetch(next_keys + (row / kRows * kLines + i) * kLine, _MM_HINT_T1);
      _mm_prefetch(next_values + (row / kRows * kLines + i) * kLine, _MM_HINT_T1);
    }
  }
};

/// Products says how 4 bytes of a query meet 4 bytes of 16 keys: Sum, start, add, logits, scale.
template <typename Products, int rows_count, int vecs>
struct Sums {
  typename Products::Sum s[rows_count][vecs];

  /// Lines [from, to) of S = Q·Kᵀ.
  template <typename Args>
  __attribute__((always_inline)) inline void add(const Columns<Args>& columns, int64_t row, int64_t from, int64_t to) {
    const int64_t line = 4 * columns.a.block_k, q_row = columns.a.dim * static_cast<int64_t>(sizeof *columns.a.q);
    const auto* const q = reinterpret_cast<const char*>(columns.a.q) + row * q_row;
    const auto* keys = static_cast<const char*>(columns.keys) + from * line;
    for (int64_t c = 4 * from; c < 4 * to; c += 4, keys += line) {
      __m512i b[vecs];
#pragma GCC unroll 8
      for (int v = 0; v < vecs; ++v) b[v] = _mm512_loadu_si512(keys + v * static_cast<int64_t>(sizeof b[v]));
#pragma GCC unroll 8
      for (int r = 0; r < rows_count; ++r) {
        const __m512i x = broadcast_32(q + r * q_row + c);
#pragma GCC unroll 8
        for (int v = 0; v < vecs; ++v) s[r][v] = Products::add(s[r][v], x, b[v]);
      }
    }
  }
};

/// Logits of a tile less their rows' maxima, waiting to become weights.
template <int rows_count, int vecs>
struct Held {
  static constexpr int kPairs = (vecs + 1) / 2, kParts = rows_count * kPairs;
  Vec x[rows_count][2 * kPairs];

  /// Part 0 … kParts - 1: 32 weights 2^x in bf16 and their sums.
  template <typename Args>
  __attribute__((always_inline)) inline void weigh(const Args& a, int64_t row, int part, bf16_t* weights) const {
    const int r = part / kPairs, v = part % kPairs * 2;
    const bool whole = v + 1 < vecs;
    const Vec low = exp2_weight(x[r][v]);
    const Pairs w = _mm512_cvtne2ps_pbh(whole ? exp2_weight(x[r][v + 1]) : _mm512_setzero_ps(), low);
    const Pairs ones = reinterpret_cast<Pairs>(_mm512_set1_epi32(0x3f803f80));
    float* const sums = a.sums + (row + r) * kLanes;
    _mm512_storeu_ps(sums, _mm512_dpbf16_ps(_mm512_loadu_ps(sums), w, ones));
    bf16_t* const out = weights + (row + r) * a.block_k + v * kLanes;
    if (whole) {
      _mm512_storeu_si512(out, reinterpret_cast<__m512i>(w));
    } else {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), _mm512_castsi512_si256(reinterpret_cast<__m512i>(w)));
    }
  }
};

/// Sums to logits scale · s (+ bias), the maxima of rows, and logits less those.
template <bool biased, typename Products, int rows_count, int vecs, typename Args>
__attribute__((always_inline)) inline void hold(const Columns<Args>& columns, int64_t row,
                                                const Sums<Products, rows_count, vecs>& sums, Held<rows_count, vecs>& held) {
  const Args& a = columns.a;
#pragma GCC unroll 8
  for (int r = 0; r < rows_count; ++r) {
    const Vec scale = _mm512_set1_ps(Products::scale(a, row + r, columns.block));
    Vec x[vecs];
    // Scaled and rounded before the maximum is taken off, so that no difference is positive, however large the logits.
#pragma GCC unroll 8
    for (int v = 0; v < vecs; ++v) {
      const Vec s = Products::numbers(sums.s[r][v]);
      x[v] = biased ? _mm512_fmadd_ps(s, scale, _mm512_loadu_ps(columns.bias + v * kLanes)) : _mm512_mul_ps(s, scale);
    }
    Vec top = x[0];
#pragma GCC unroll 8
    for (int v = 1; v < vecs; ++v) top = _mm512_max_ps(x[v], top);
    const float& m = a.m[row + r];
    // The maximum moves a few times per row in all. A lazy one (only when exceeded by 2^8) was no faster and had up to
    // four times the error, because then the largest weight is no longer exactly 1.
    if (_mm512_cmp_ps_mask(top, _mm512_set1_ps(m), _CMP_GT_OQ) != 0) [[unlikely]]
      move_maximum(a, row + r, _mm512_reduce_max_ps(top), columns.first);
    const Vec origin = _mm512_set1_ps(m == kNone ? 0.0F : m);
#pragma GCC unroll 8
    for (int v = 0; v < vecs; ++v) held.x[r][v] = _mm512_sub_ps(x[v], origin);
  }
}

/// A few rows on their own.
template <typename Products, int rows_count, int vecs, bool biased, typename Args>
inline void weigh_rows(const Columns<Args>& columns, int64_t row, bf16_t* weights) {
  Sums<Products, rows_count, vecs> sums;
  Products::start(columns.a, row, sums.s);
  sums.add(columns, row, 0, Products::lines(columns.a.dim));
  Held<rows_count, vecs> held;
  hold<biased>(columns, row, sums, held);
  for (int part = 0; part < held.kParts; ++part) held.weigh(columns.a, row, part, weights);
}

/// Weights of rows [row, end) against 16·vecs keys. The softmax of a tile is dealt out among the products of the next one,
/// because the queues of the processor are too short to overlap them otherwise.
template <typename Products, int vecs, bool biased, typename Args>
void weigh_columns(const Columns<Args>& columns, int64_t row, int64_t end, bf16_t* weights) {
  const Args& a = columns.a;
  const int64_t lines = Products::lines(a.dim);
  Held<kRows, vecs> held;
  constexpr int64_t kParts = Held<kRows, vecs>::kParts;
  bool holds = false;
  for (; row + kRows <= end; row += kRows) {
    Sums<Products, kRows, vecs> sums;
    Products::start(a, row, sums.s);
    columns.prefetch(row);
    if (!holds) {
      sums.add(columns, row, 0, lines);
    } else {
#pragma GCC unroll 8
      for (int part = 0; part < kParts; ++part) {
        sums.add(columns, row, lines * part / kParts, lines * (part + 1) / kParts);
        held.weigh(a, row - kRows, part, weights);
      }
    }
    hold<biased>(columns, row, sums, held);
    holds = true;
  }
  if (holds)
    for (int part = 0; part < kParts; ++part) held.weigh(a, row - kRows, part, weights);
  switch (end - row) {
    case 1: return weigh_rows<Products, 1, vecs, biased>(columns, row, weights);
    case 2: return weigh_rows<Products, 2, vecs, biased>(columns, row, weights);
    case 3: return weigh_rows<Products, 3, vecs, biased>(columns, row, weights);
    default: return;
  }
}

/// acc (+)= P·V of rows_count x 16·vecs channels over `keys` keys.
template <int rows_count, int vecs>
inline void add_values(bool first, int64_t keys, const bf16_t* weights, int64_t weight_row, const bf16_t* values, int64_t acc_row,
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

/// The same for rows [row, end).
template <int vecs, typename Args>
void add_values(const Args& a, bool first, int64_t row, int64_t end, int64_t keys, const bf16_t* values, float* acc) {
  const int64_t acc_row = whole_lanes(a.dim), line = a.block_k;
  for (; row + kRows <= end; row += kRows)
    add_values<kRows, vecs>(first, keys, a.weights + row * line, line, values, acc_row, acc + row * acc_row);
  const bf16_t* const weights = a.weights + row * line;
  switch (end - row) {
    case 1: return add_values<1, vecs>(first, keys, weights, line, values, acc_row, acc + row * acc_row);
    case 2: return add_values<2, vecs>(first, keys, weights, line, values, acc_row, acc + row * acc_row);
    case 3: return add_values<3, vecs>(first, keys, weights, line, values, acc_row, acc + row * acc_row);
    default: return;
  }
}

template <typename Products, typename Args>
void attend(const Args& a) {
  constexpr void (*kWeigh[kVecs][2])(const Columns<Args>&, int64_t, int64_t, bf16_t*) = {
      {weigh_columns<Products, 1, false, Args>, weigh_columns<Products, 1, true, Args>},
      {weigh_columns<Products, 2, false, Args>, weigh_columns<Products, 2, true, Args>},
      {weigh_columns<Products, 3, false, Args>, weigh_columns<Products, 3, true, Args>},
      {weigh_columns<Products, 4, false, Args>, weigh_columns<Products, 4, true, Args>}};
  constexpr void (*kAddValues[kVecs])(const Args&, bool, int64_t, int64_t, int64_t, const bf16_t*, float*) = {
      add_values<1, Args>, add_values<2, Args>, add_values<3, Args>, add_values<4, Args>};
  const int64_t width = whole_lanes(a.dim), key_line = 4 * a.block_k;
  for (int64_t r = 0; r < a.rows; ++r) a.m[r] = kNone;
  for (int64_t i = 0; i < a.rows * kLanes; ++i) a.sums[i] = 0;
  bool first = true;
  for (int64_t i = 0; i < a.count; ++i) {
    const int64_t j = a.list == nullptr ? i : a.list[i];
    const int64_t keys = least(a.block_k, a.keys - j * a.block_k);
    const auto* const key_block = reinterpret_cast<const char*>(a.key_blocks) + j * key_line * Products::lines(a.dim);
    const bf16_t* const value_block = a.value_blocks + j * a.block_k * width;
    const int64_t next = i + 1 < a.count ? (a.list == nullptr ? i + 1 : a.list[i + 1]) - j : 0;
    const char* const next_keys = key_block + next * key_line * Products::lines(a.dim);
    const auto* const next_values = reinterpret_cast<const char*>(value_block + next * a.block_k * width);
    const float* bias = nullptr;
    if (a.bias != nullptr) {
      bias = a.bias + j * a.block_k;
    } else if (keys < a.block_k) {
      bias = a.tail_bias;
    }
    for (int64_t t = 0; t < keys; t += kColumns) {
      const int64_t count = least(kColumns, keys - t);
      const Columns<Args> columns{a, j, key_block + 4 * t, bias == nullptr ? nullptr : bias + t, first, next_keys, next_values};
      for (int64_t r = 0; r < a.rows; r += kGroup) {
        const int64_t end = least(r + kGroup, a.rows);
        kWeigh[whole_lanes(count) / kLanes - 1][bias != nullptr](columns, r, end, a.weights);
        for (int64_t c = 0; c < width; c += kColumns)
          kAddValues[least(kColumns, width - c) / kLanes - 1](a, first, r, end, count, value_block + t * width + 2 * c,
                                                              a.acc + c);
      }
      first = false;
    }
  }
  for (int64_t r = 0; r < a.rows; ++r) a.l[r] = _mm512_reduce_add_ps(_mm512_loadu_ps(a.sums + r * kLanes));
}

}  // namespace
}  // namespace sla2::kernels::avx512_bf16
