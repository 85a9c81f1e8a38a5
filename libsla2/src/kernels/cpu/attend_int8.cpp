// SPDX-License-Identifier: Apache-2.0
// Attention with eight-bit Q·K, AVX-512 + VNNI + BF16: VPDPBUSD sums four products of bytes per lane, exactly.
#include "kernels/attend_int8.h"

#include "kernels/cpu/attend_tile.h"

namespace sla2::kernels::avx512_bf16 {
namespace {

struct Int8Products {
  using Sum = __m512i;
  static int64_t lines(int64_t dim) { return dim / 4; }
  template <int rows_count, int vecs>
  static void start(const AttendInt8& a, int64_t row, Sum (&s)[rows_count][vecs]) {
#pragma GCC unroll 8
    for (int r = 0; r < rows_count; ++r)
#pragma GCC unroll 8
      for (int v = 0; v < vecs; ++v) s[r][v] = _mm512_set1_epi32(a.q_offset[row + r]);
  }
  /// Four products of unsigned k and signed q per lane. Written out, because GCC 12 copies every sum around its intrinsic.
  static Sum add(Sum s, __m512i q, __m512i k) {
    __asm__("vpdpbusd %2, %1, %0" : "+v"(s) : "v"(k), "v"(q));
    return s;
  }
  static Vec numbers(Sum s) { return _mm512_cvtepi32_ps(s); }
  static float scale(const AttendInt8& a, int64_t row, int64_t block) { return a.scale * a.q_scale[row] * a.key_scale[block]; }
};

/// Largest magnitude among what is finite, and one bit per lane position that held something else.
struct Magnitude {
  Vec top;
  __mmask16 bad;
};
inline __mmask16 filled_lanes(int64_t count) { return static_cast<__mmask16>((1U << least(kLanes, count)) - 1U); }
inline __mmask16 finite_lanes(Vec x) {
  return _mm512_cmp_ps_mask(_mm512_abs_ps(x), _mm512_set1_ps(__builtin_inff()), _CMP_LT_OQ);
}
inline Magnitude magnitude_of_row(const float* x, int64_t dim, Vec top) {
  Magnitude m{top, 0};
  for (int64_t c = 0; c < dim; c += kLanes) {
    const Vec at = _mm512_maskz_loadu_ps(filled_lanes(dim - c), x + c);
    const __mmask16 finite = finite_lanes(at);
    m.bad |= static_cast<__mmask16>(~finite);
    m.top = _mm512_mask_max_ps(m.top, finite, m.top, _mm512_abs_ps(at));
  }
  return m;
}

constexpr float kSteps = 127, kLeast = 1e-35F;
/// Steps per unit, 0 for a block of zeros.
inline float steps_per_unit(float top) { return top < kLeast ? 0.0F : kSteps / top; }
inline float step_of(float top) { return top < kLeast ? 0.0F : top / kSteps; }

/// Sixteen numbers to steps; what is not finite becomes 0.
inline __m512i steps_of(Vec x, Vec steps) { return _mm512_cvtps_epi32(_mm512_maskz_mul_ps(finite_lanes(x), x, steps)); }

}  // namespace

void attend_int8(const AttendInt8& a) { attend<Int8Products>(a); }

void quantise_rows_int8(const float* rows, int64_t n, int64_t dim, int8_t* out, float* scale, int32_t* offset) {
  Vec top = _mm512_setzero_ps();
  for (int64_t t = 0; t < n; ++t) {
    const Magnitude m = magnitude_of_row(rows + t * dim, dim, top);
    top = m.top;
    scale[t] = m.bad == 0 ? 0.0F : __builtin_nanf("");
  }
  const float largest = _mm512_reduce_max_ps(top);
  const Vec steps = _mm512_set1_ps(steps_per_unit(largest));
  for (int64_t t = 0; t < n; ++t) {
    scale[t] += step_of(largest);
    __m512i sum = _mm512_setzero_si512();
    for (int64_t c = 0; c < dim; c += kLanes) {
      const __mmask16 filled = filled_lanes(dim - c);
      const __m512i q = steps_of(_mm512_maskz_loadu_ps(filled, rows + t * dim + c), steps);
      sum = _mm512_add_epi32(sum, q);
      _mm512_mask_cvtepi32_storeu_epi8(out + t * dim + c, filled, q);
    }
    constexpr int32_t kShift = -128;
    offset[t] = kShift * _mm512_reduce_add_epi32(sum);
  }
}

void pack_keys_int8(const float* rows, int64_t n, int64_t dim, int64_t block, uint8_t* out, float* scale) {
  Vec top = _mm512_setzero_ps();
  __mmask16 bad = 0;
  for (int64_t t = 0; t < n; ++t) {
    const Magnitude m = magnitude_of_row(rows + t * dim, dim, top);
    top = m.top;
    bad |= m.bad;
  }
  const float largest = _mm512_reduce_max_ps(top);
  *scale = bad == 0 ? step_of(largest) : __builtin_nanf("");
  const Vec steps = _mm512_set1_ps(steps_per_unit(largest));
  // Four keys x sixteen channels at a time: each key's bytes are four 32-bit numbers, a 4 x 4 transpose puts them in line.
  constexpr int kQuad = 4;
  for (int64_t t = 0; t < block; t += kQuad)
    for (int64_t c = 0; c < dim; c += kLanes) {
      __m128i key[kQuad];
      for (int i = 0; i < kQuad; ++i) {
        const __mmask16 filled = t + i < n ? filled_lanes(dim - c) : __mmask16{0};
        const __m512i k = steps_of(_mm512_maskz_loadu_ps(filled, rows + (t + i) * dim + c), steps);
        key[i] = _mm_xor_si128(_mm512_cvtepi32_epi8(k), _mm_set1_epi8(-128));
      }
      const __m128i low01 = _mm_unpacklo_epi32(key[0], key[1]), low23 = _mm_unpacklo_epi32(key[2], key[3]);
      const __m128i high01 = _mm_unpackhi_epi32(key[0], key[1]), high23 = _mm_unpackhi_epi32(key[2], key[3]);
      const __m128i lines[kQuad] = {_mm_unpacklo_epi64(low01, low23), _mm_unpackhi_epi64(low01, low23),
                                    _mm_unpacklo_epi64(high01, high23), _mm_unpackhi_epi64(high01, high23)};
      for (int64_t i = 0; i < least(kQuad, (dim - c) / kQuad); ++i)
        _mm_storeu_si128(reinterpret_cast<__m128i*>(out + ((c / kQuad + i) * block + t) * kQuad), lines[i]);
    }
}

}  // namespace sla2::kernels::avx512_bf16
