// SPDX-License-Identifier: Apache-2.0
// bf16 attention, AVX-512 + VDPBF16PS. Tiles and their sizes: attend_tile.h.
#include "kernels/attend_bf16.h"

#include "kernels/cpu/attend_tile.h"

namespace sla2::kernels::avx512_bf16 {
namespace {

struct Bf16Products {
  using Sum = Vec;
  static int64_t lines(int64_t dim) { return dim / 2; }
  template <int rows_count, int vecs>
  static void start(const AttendBf16&, int64_t, Sum (&s)[rows_count][vecs]) {
#pragma GCC unroll 8
    for (int r = 0; r < rows_count; ++r)
#pragma GCC unroll 8
      for (int v = 0; v < vecs; ++v) s[r][v] = _mm512_setzero_ps();
  }
  static Sum add(Sum s, __m512i q, __m512i k) {
    return _mm512_dpbf16_ps(s, reinterpret_cast<Pairs>(q), reinterpret_cast<Pairs>(k));
  }
  static Vec numbers(Sum s) { return s; }
  static float scale(const AttendBf16& a, int64_t, int64_t) { return a.scale; }
};

}  // namespace

void attend_bf16(const AttendBf16& a) { attend<Bf16Products>(a); }

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
