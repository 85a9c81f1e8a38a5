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
  // 16 keys by 32 channels at a time: 16 pairs of each key, then a transpose of 32-bit numbers.
  for (int64_t first = 0; first < block; first += kLanes)
    for (int64_t c = 0; c < dim; c += kPairLanes) {
      const int64_t channels = least(kPairLanes, dim - c);
      const uint32_t mask = channels == kPairLanes ? ~0U : (1U << channels) - 1U;
      __m512i keys[kLanes];
#pragma GCC unroll 16
      for (int64_t t = 0; t < kLanes; ++t) {
        const float* const at = rows + (first + t) * dim + c;
        const uint32_t here = first + t < n ? mask : 0U;
        const Vec low = _mm512_maskz_loadu_ps(static_cast<__mmask16>(here), at),
                  high = _mm512_maskz_loadu_ps(static_cast<__mmask16>(here >> 16U), at + kLanes);
        keys[t] = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high, low));
      }
      transpose(keys);
#pragma GCC unroll 16
      for (int64_t pair = 0; pair < kLanes; ++pair)
        if (2 * pair < channels) _mm512_storeu_si512(out + (c + 2 * pair) * block + 2 * first, keys[pair]);
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
