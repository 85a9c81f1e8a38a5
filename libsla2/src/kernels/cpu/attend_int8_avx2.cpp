// SPDX-License-Identifier: Apache-2.0
// Attention with eight-bit Q·K on AVX2, which multiplies bytes exactly only as 16-bit numbers (VPMADDUBSW saturates): keys are
// widened while they are loaded, a tile's queries once. Weights are rounded to bf16 and values widened from it, products in
// fp32. Four rows at a time against one key block; logits and weights of a tile stay in L1.
#include <immintrin.h>

#include "kernels/attend_int8.h"
#include "kernels/cpu/exp2.h"
#include "kernels/tiles.h"

namespace sla2::kernels::avx2 {
namespace {

constexpr int64_t kTileRows = kInt8Rows, kMaxDim = 256, kMaxBlock = 128;
constexpr int64_t kEight = 8, kWidth = 16;  // lanes; what rows of acc are a multiple of
constexpr float kNone = -__builtin_inff();

inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

struct Tile {
  alignas(32) int16_t q[kTileRows][kMaxDim];
  alignas(32) float x[kTileRows][kMaxBlock];  ///< logits, then weights
};

inline float largest_lane(__m256 x) {
  __m128 y = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  y = _mm_max_ps(y, _mm_movehl_ps(y, y));
  return _mm_cvtss_f32(_mm_max_ss(y, _mm_movehdup_ps(y)));
}
inline float sum_of_lanes(__m256 x) {
  __m128 y = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  y = _mm_add_ps(y, _mm_movehl_ps(y, y));
  return _mm_cvtss_f32(_mm_add_ss(y, _mm_movehdup_ps(y)));
}

/// To the nearest bf16, ties to even; NaN stays.
inline __m256 round_to_bf16(__m256 x) {
  const __m256i bits = _mm256_castps_si256(x);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i up = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
  const __m256 rounded = _mm256_castsi256_ps(_mm256_and_si256(up, _mm256_set1_epi32(static_cast<int>(0xffff0000U))));
  return _mm256_blendv_ps(rounded, x, _mm256_cmp_ps(x, x, _CMP_UNORD_Q));
}

template <int rows>
void widen_queries(const AttendInt8& a, int64_t row, Tile& tile) {
  for (int r = 0; r < rows; ++r)
    for (int64_t c = 0; c < a.dim; c += kEight)
      _mm_store_si128(reinterpret_cast<__m128i*>(tile.q[r] + c),
                      _mm_cvtepi8_epi16(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(a.q + (row + r) * a.dim + c))));
}

/// Logits of `rows` rows against eight keys. A register of sums holds four keys, two sums each.
template <int rows>
void multiply_keys(const AttendInt8& a, int64_t row, const uint8_t* keys, float key_scale, const float* bias, int64_t first,
                   Tile& tile) {
  __m256i low[rows], high[rows];
#pragma GCC unroll 4
  for (int r = 0; r < rows; ++r) low[r] = high[r] = _mm256_setzero_si256();
  for (int64_t c = 0; c < a.dim; c += 4, keys += 4 * a.block_k) {
    const __m256i k_low = _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(keys)));
    const __m256i k_high = _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(keys + 16)));
#pragma GCC unroll 4
    for (int r = 0; r < rows; ++r) {
      const __m256i q = _mm256_broadcastq_epi64(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(tile.q[r] + c)));
      low[r] = _mm256_add_epi32(low[r], _mm256_madd_epi16(k_low, q));
      high[r] = _mm256_add_epi32(high[r], _mm256_madd_epi16(k_high, q));
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < rows; ++r) {
    constexpr int kInOrder = 0xd8;
    const __m256i sums = _mm256_permute4x64_epi64(_mm256_hadd_epi32(low[r], high[r]), kInOrder);
    const __m256 s = _mm256_cvtepi32_ps(_mm256_add_epi32(sums, _mm256_set1_epi32(a.q_offset[row + r])));
    const __m256 scale = _mm256_set1_ps(a.scale * a.q_scale[row + r] * key_scale);
    const __m256 x = bias == nullptr ? _mm256_mul_ps(s, scale) : _mm256_fmadd_ps(s, scale, _mm256_loadu_ps(bias + first));
    _mm256_store_ps(tile.x[r] + first, x);
  }
}

/// Logits of one row to weights; maximum, sum and acc of the row move along.
void weigh_row(const AttendInt8& a, int64_t row, int64_t keys, int64_t width, float* x) {
  __m256 top = _mm256_set1_ps(kNone);
  for (int64_t t = 0; t < keys; t += kEight) top = _mm256_max_ps(_mm256_load_ps(x + t), top);  // NaN: the second operand
  const float largest = largest_lane(top);
  float& m = a.m[row];
  if (largest > m) {
    if (m != kNone) {
      const __m256 factor = exp2_nonpositive(Vec{_mm256_set1_ps(m - largest)}).raw;
      a.l[row] *= _mm256_cvtss_f32(factor);
      float* const acc = a.acc + row * width;
      for (int64_t c = 0; c < width; c += kEight) _mm256_storeu_ps(acc + c, _mm256_mul_ps(_mm256_loadu_ps(acc + c), factor));
    }
    m = largest;
  }
  const __m256 origin = _mm256_set1_ps(m == kNone ? 0.0F : m);
  __m256 sum = _mm256_setzero_ps();
  for (int64_t t = 0; t < keys; t += kEight) {
    const __m256 weight = round_to_bf16(exp2_nonpositive(Vec{_mm256_sub_ps(_mm256_load_ps(x + t), origin)}).raw);
    _mm256_store_ps(x + t, weight);
    sum = _mm256_add_ps(sum, weight);
  }
  a.l[row] += sum_of_lanes(sum);
}

/// acc += P·V of `rows` rows x 16 channels.
template <int rows>
void add_values(const Tile& tile, int64_t keys, const bf16_t* values, int64_t width, float* acc) {
  __m256 low[rows], high[rows];
#pragma GCC unroll 4
  for (int r = 0; r < rows; ++r) low[r] = _mm256_loadu_ps(acc + r * width), high[r] = _mm256_loadu_ps(acc + r * width + kEight);
  const __m256i upper = _mm256_set1_epi32(static_cast<int>(0xffff0000U));
  for (int64_t t = 0; t < keys; t += 2, values += 2 * width) {
    const __m256i v_low = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(values));
    const __m256i v_high = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(values + 2 * kEight));
    for (int odd = 0; odd < 2; ++odd) {
      const auto half = [&](__m256i v) {
        return _mm256_castsi256_ps(odd == 0 ? _mm256_slli_epi32(v, 16) : _mm256_and_si256(v, upper));
      };
      const __m256 b_low = half(v_low), b_high = half(v_high);
#pragma GCC unroll 4
      for (int r = 0; r < rows; ++r) {
        const __m256 weight = _mm256_broadcast_ss(tile.x[r] + t + odd);
        low[r] = _mm256_fmadd_ps(weight, b_low, low[r]);
        high[r] = _mm256_fmadd_ps(weight, b_high, high[r]);
      }
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < rows; ++r) _mm256_storeu_ps(acc + r * width, low[r]), _mm256_storeu_ps(acc + r * width + kEight, high[r]);
}

/// `rows` rows against key block j, of which `keys` keys are there.
template <int rows>
void attend_tile(const AttendInt8& a, int64_t row, int64_t j, int64_t keys, int64_t width, Tile& tile) {
  const float* const bias = a.bias != nullptr ? a.bias + j * a.block_k : keys < a.block_k ? a.tail_bias : nullptr;
  widen_queries<rows>(a, row, tile);
  for (int64_t t = 0; t < keys; t += kEight)
    multiply_keys<rows>(a, row, a.key_blocks + j * a.block_k * a.dim + 4 * t, a.key_scale[j], bias, t, tile);
  for (int r = 0; r < rows; ++r) weigh_row(a, row + r, keys, width, tile.x[r]);
  for (int64_t c = 0; c < width; c += kWidth)
    add_values<rows>(tile, keys, a.value_blocks + j * a.block_k * width + 2 * c, width, a.acc + row * width + c);
}

}  // namespace

void attend_int8(const AttendInt8& a) {
  const int64_t width = (a.dim + kWidth - 1) / kWidth * kWidth;
  for (int64_t r = 0; r < a.rows; ++r) a.m[r] = kNone, a.l[r] = 0;
  for (int64_t i = 0; i < a.rows * width; ++i) a.acc[i] = 0;
  Tile tile;
  for (int64_t i = 0; i < a.count; ++i) {
    const int64_t j = a.list == nullptr ? i : a.list[i];
    const int64_t keys = least(a.block_k, a.keys - j * a.block_k);
    int64_t row = 0;
    for (; row + kTileRows <= a.rows; row += kTileRows) attend_tile<kTileRows>(a, row, j, keys, width, tile);
    for (; row < a.rows; ++row) attend_tile<1>(a, row, j, keys, width, tile);
  }
}

}  // namespace sla2::kernels::avx2
