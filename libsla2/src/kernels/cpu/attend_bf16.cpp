// SPDX-License-Identifier: Apache-2.0
// bf16 attention, AVX-512 + VDPBF16PS. Nothing of the standard library here: its inline functions would be compiled for
// this instruction set and could be linked into code that runs on every CPU.
//
// Sizes. A tile is 4 rows x 64 columns: 16 accumulators, 4 registers of the right-hand side, and the softmax of a tile is
// short enough (16 vectors) to overlap with the products of the next one in the reorder buffer; 6 x 64 needs fewer loads
// but was 2 % slower for that reason. One key block of 64 x 128 is 16 KB of keys, then 16 KB of values: each stays in L1
// while all rows pass. Logits never leave registers: they become weights in bf16 (16 KB for 128 x 64).
#include "kernels/attend_bf16.h"

#include "kernels/cpu/bf16_lanes.h"

namespace sla2::kernels::avx512_bf16 {
namespace {

constexpr int kRows = 4, kVecs = 4;
constexpr int64_t kColumns = kVecs * kLanes;
constexpr float kNone = -__builtin_inff();

struct Tile {
  const AttendBf16& a;
  int64_t acc_row;
  float inverse_scale;
  bool first;  ///< no key block before this one: acc holds nothing
};

/// The maximum of `row` is now `top`: what was summed before shrinks.
__attribute__((noinline)) Vec move_maximum(const Tile& tile, int64_t row, float top, Vec sums) {
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

/// S = Q·Kᵀ of rows_count x 16·vecs, then weights 2^(scale · S (+ bias) - m) in bf16 and their sums.
template <int rows_count, int vecs, bool biased>
void weigh(const Tile& tile, int64_t row, const bf16_t* keys, const float* bias, bf16_t* weights) {
  const AttendBf16& a = tile.a;
  const int64_t dim = a.dim, line = 2 * a.block_k;
  const bf16_t* const q = a.q + row * dim;
  Vec s[rows_count][vecs];
#pragma GCC unroll 8
  for (int r = 0; r < rows_count; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < vecs; ++v) s[r][v] = _mm512_setzero_ps();
  for (int64_t c = 0; c < dim; c += 2, keys += line) {
    Pairs b[vecs];
#pragma GCC unroll 8
    for (int v = 0; v < vecs; ++v) b[v] = load_pairs(keys + v * 2 * kLanes);
#pragma GCC unroll 8
    for (int r = 0; r < rows_count; ++r) {
      const Pairs x = broadcast_pair(q + r * dim + c);
#pragma GCC unroll 8
      for (int v = 0; v < vecs; ++v) s[r][v] = _mm512_dpbf16_ps(s[r][v], x, b[v]);
    }
  }
  const Vec scale = _mm512_set1_ps(a.scale);
  const Pairs ones = reinterpret_cast<Pairs>(_mm512_set1_epi32(0x3f803f80));
#pragma GCC unroll 8
  for (int r = 0; r < rows_count; ++r) {
    if constexpr (biased) {
#pragma GCC unroll 8
      for (int v = 0; v < vecs; ++v) s[r][v] = _mm512_fmadd_ps(s[r][v], scale, _mm512_loadu_ps(bias + v * kLanes));
    }
    Vec top = s[r][0];
#pragma GCC unroll 8
    for (int v = 1; v < vecs; ++v) top = _mm512_max_ps(s[r][v], top);
    float& m = a.m[row + r];
    Vec sums = _mm512_loadu_ps(a.sums + (row + r) * kLanes);
    // The maximum moves a few times per row in all. A lazy one (only when exceeded by 2^8) was no faster and had up to
    // four times the error, because then the largest weight is no longer exactly 1.
    const Vec limit = biased ? _mm512_set1_ps(m) : _mm512_set1_ps(m * tile.inverse_scale);
    if (_mm512_cmp_ps_mask(top, limit, _CMP_GT_OQ) != 0) [[unlikely]]
      sums = move_maximum(tile, row + r, _mm512_reduce_max_ps(top) * (biased ? 1.0F : a.scale), sums);
    const Vec origin = _mm512_set1_ps(m == kNone ? 0.0F : m);
    Vec p[vecs + vecs % 2];
#pragma GCC unroll 8
    for (int v = 0; v < vecs; ++v)
      p[v] = exp2_weight(biased ? _mm512_sub_ps(s[r][v], origin) : _mm512_fmsub_ps(s[r][v], scale, origin));
    if constexpr (vecs % 2 == 1) p[vecs] = _mm512_setzero_ps();
    bf16_t* const out = weights + (row + r) * a.block_k;
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
    _mm512_storeu_ps(a.sums + (row + r) * kLanes, sums);
  }
}

/// acc (+)= P·V of rows_count x 16·vecs channels over `keys` keys.
template <int rows_count, int vecs>
void add_values(const Tile& tile, int64_t row, int64_t keys, const bf16_t* weights, const bf16_t* values, float* acc) {
  const int64_t weight_row = tile.a.block_k, line = 2 * tile.acc_row;
  weights += row * weight_row;
  acc += row * tile.acc_row;
  Vec o[rows_count][vecs];
#pragma GCC unroll 8
  for (int r = 0; r < rows_count; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < vecs; ++v)
      o[r][v] = tile.first ? _mm512_setzero_ps() : _mm512_loadu_ps(acc + r * tile.acc_row + v * kLanes);
  for (int64_t t = 0; t < keys; t += 2, values += line) {
    Pairs b[vecs];
#pragma GCC unroll 8
    for (int v = 0; v < vecs; ++v) b[v] = load_pairs(values + v * 2 * kLanes);
#pragma GCC unroll 8
    for (int r = 0; r < rows_count; ++r) {
      const Pairs x = broadcast_pair(weights + r * weight_row + t);
#pragma GCC unroll 8
      for (int v = 0; v < vecs; ++v) o[r][v] = _mm512_dpbf16_ps(o[r][v], x, b[v]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < rows_count; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < vecs; ++v) _mm512_storeu_ps(acc + r * tile.acc_row + v * kLanes, o[r][v]);
}

using Weigh = void (*)(const Tile&, int64_t, const bf16_t*, const float*, bf16_t*);
using AddValues = void (*)(const Tile&, int64_t, int64_t, const bf16_t*, const bf16_t*, float*);
#define SLA2_ROW_COUNTS(name, ...) \
  { name<1, __VA_ARGS__>, name<2, __VA_ARGS__>, name<3, __VA_ARGS__>, name<4, __VA_ARGS__> }
constexpr Weigh kWeigh[kVecs][2][kRows] = {{SLA2_ROW_COUNTS(weigh, 1, false), SLA2_ROW_COUNTS(weigh, 1, true)},
                                           {SLA2_ROW_COUNTS(weigh, 2, false), SLA2_ROW_COUNTS(weigh, 2, true)},
                                           {SLA2_ROW_COUNTS(weigh, 3, false), SLA2_ROW_COUNTS(weigh, 3, true)},
                                           {SLA2_ROW_COUNTS(weigh, 4, false), SLA2_ROW_COUNTS(weigh, 4, true)}};
constexpr AddValues kAddValues[kVecs][kRows] = {SLA2_ROW_COUNTS(add_values, 1), SLA2_ROW_COUNTS(add_values, 2),
                                                SLA2_ROW_COUNTS(add_values, 3), SLA2_ROW_COUNTS(add_values, 4)};
#undef SLA2_ROW_COUNTS

}  // namespace

void attend_bf16(const AttendBf16& a) {
  Tile tile{a, whole_lanes(a.dim), 1.0F / a.scale, true};
  for (int64_t r = 0; r < a.rows; ++r) a.m[r] = kNone;
  for (int64_t i = 0; i < a.rows * kLanes; ++i) a.sums[i] = 0;
  for (int64_t i = 0; i < a.count; ++i) {
    const int64_t j = a.list == nullptr ? i : a.list[i];
    const int64_t keys = least(a.block_k, a.keys - j * a.block_k);
    const bf16_t* const key_block = a.key_blocks + j * a.block_k * a.dim;
    const bf16_t* const value_block = a.value_blocks + j * a.block_k * tile.acc_row;
    const float* bias = nullptr;
    if (a.bias != nullptr) {
      bias = a.bias + j * a.block_k;
    } else if (keys < a.block_k) {
      bias = a.tail_bias;
    }
    for (int64_t t = 0; t < keys; t += kColumns) {
      const int64_t columns = least(kColumns, keys - t);
      const Weigh* const weigh_rows = kWeigh[whole_lanes(columns) / kLanes - 1][bias != nullptr];
      for (int64_t r = 0; r < a.rows; r += kRows)
        weigh_rows[least(kRows, a.rows - r) - 1](tile, r, key_block + 2 * t, bias == nullptr ? nullptr : bias + t, a.weights);
      for (int64_t c = 0; c < tile.acc_row; c += kColumns) {
        const AddValues* const add_rows = kAddValues[least(kColumns, tile.acc_row - c) / kLanes - 1];
        for (int64_t r = 0; r < a.rows; r += kRows)
          add_rows[least(kRows, a.rows - r) - 1](tile, r, columns, a.weights, value_block + t * tile.acc_row + 2 * c, a.acc + c);
      }
      tile.first = false;
    }
  }
  for (int64_t r = 0; r < a.rows; ++r) a.l[r] = _mm512_reduce_add_ps(_mm512_loadu_ps(a.sums + r * kLanes));
}

void narrow_rows_bf16(const float* rows, int64_t count, bf16_t* out) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes)
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + i),
                        reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(_mm512_loadu_ps(rows + i))));
  if (i == count) return;
  const auto mask = static_cast<__mmask16>((1U << (count - i)) - 1U);
  _mm256_mask_storeu_epi16(out + i, mask, reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(mask, rows + i))));
}

void pack_keys_bf16(const float* rows, int64_t n, int64_t dim, int64_t block, bf16_t* out) {
  // 16 keys at a time: each key's pairs of channels are one column of 32-bit numbers.
  for (int64_t first = 0; first < block; first += kLanes) {
    const int64_t filled = first >= n ? 0 : least(kLanes, n - first);
    const auto mask = static_cast<__mmask16>((1U << filled) - 1U);
    const __m512i step = _mm512_mullo_epi32(_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
                                            _mm512_set1_epi32(static_cast<int>(dim)));
    const float* const at = rows + first * dim;
    for (int64_t c = 0; c < dim; c += 2) {
      const Vec even = _mm512_mask_i32gather_ps(_mm512_setzero_ps(), mask, step, at + c, 4);
      const Vec odd = _mm512_mask_i32gather_ps(_mm512_setzero_ps(), mask, step, at + c + 1, 4);
      const __m512i low = _mm512_cvtepu16_epi32(reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(even)));
      const __m512i high = _mm512_cvtepu16_epi32(reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(odd)));
      _mm512_storeu_si512(out + c * block + 2 * first, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
    }
  }
}

void pack_values_bf16(const float* rows, int64_t n, int64_t dim, int64_t block, bf16_t* out) {
  const int64_t width = whole_lanes(dim);
  for (int64_t t = 0; t < block; t += 2, out += 2 * width)
    for (int64_t c = 0; c < width; c += kLanes) {
      const auto mask = static_cast<__mmask16>((1U << least(kLanes, dim - c)) - 1U);
      const Vec even = _mm512_maskz_loadu_ps(t < n ? mask : __mmask16{0}, rows + t * dim + c);
      const Vec odd = _mm512_maskz_loadu_ps(t + 1 < n ? mask : __mmask16{0}, rows + (t + 1) * dim + c);
      const __m512i low = _mm512_cvtepu16_epi32(reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(even)));
      const __m512i high = _mm512_cvtepu16_epi32(reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(odd)));
      _mm512_storeu_si512(out + 2 * c, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
    }
}

}  // namespace sla2::kernels::avx512_bf16
