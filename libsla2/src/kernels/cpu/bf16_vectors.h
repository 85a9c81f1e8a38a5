// SPDX-License-Identifier: Apache-2.0
// Vectors of 16 fp32 and of 16 pairs of bf16, for files of AVX-512 + BF16 only. Nothing of the standard library in those: its
// inline functions would be compiled for this instruction set and could be linked into code that runs on every CPU.
#pragma once
#include <immintrin.h>

#include "core/dtype.h"
#include "kernels/tiles.h"

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wuninitialized"        // GCC 12 sees both in its own _mm512_undefined_ps
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // (GCC bug 105593)
#endif

namespace sla2::kernels::avx512_bf16 {
namespace {

using Vec = __m512;
using Pairs = __m512bh;
constexpr int64_t kLanes = 16, kPairLanes = 32;
constexpr int kRows = kBf16Rows, kVecs = kBf16Vecs;
constexpr int64_t kColumns = kVecs * kLanes;
constexpr float kNone = -__builtin_inff();

inline Pairs load_pairs(const bf16_t* at) { return reinterpret_cast<Pairs>(_mm512_loadu_si512(at)); }
/// Four bytes of any type in every lane.
inline __m512i broadcast_32(const void* at) {
  int32_t all;
  __builtin_memcpy(&all, at, sizeof all);
  return _mm512_set1_epi32(all);
}
inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t whole_lanes(int64_t count) { return (count + kLanes - 1) / kLanes * kLanes; }

/// 2^x for x <= 0: n = round(x) by adding 1.5 · 2^23, minimax of degree 4 on the rest (2.8e-6, far below bf16's 2e-3),
/// exponent added as an integer. Exactly 0 below -127; NaN stays NaN (MAXPS returns its second operand).
inline Vec exp2_weight(Vec x) {
  x = _mm512_max_ps(_mm512_set1_ps(-127.0F), x);
  const Vec magic = _mm512_set1_ps(0x1.8p23F);
  const Vec shifted = _mm512_add_ps(x, magic);
  const Vec f = _mm512_sub_ps(x, _mm512_sub_ps(shifted, magic));
  Vec p = _mm512_set1_ps(0x1.3a02ccp-7F);
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0x1.c9fc46p-5F));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0x1.ec0378p-3F));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0x1.62e12cp-1F));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.0F));
  constexpr int kMantissaBits = 23;
  return _mm512_castsi512_ps(
      _mm512_add_epi32(_mm512_castps_si512(p), _mm512_slli_epi32(_mm512_castps_si512(shifted), kMantissaBits)));
}

/// 16 x 16 numbers of 32 bits: rows become columns.
inline void transpose(__m512i (&x)[16]) {
  __m512i y[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; i += 2) {
    y[i] = _mm512_unpacklo_epi32(x[i], x[i + 1]);
    y[i + 1] = _mm512_unpackhi_epi32(x[i], x[i + 1]);
  }
#pragma GCC unroll 16
  for (int i = 0; i < 16; i += 4)
#pragma GCC unroll 2
    for (int j = 0; j < 2; ++j) {
      x[i + 2 * j] = _mm512_unpacklo_epi64(y[i + j], y[i + j + 2]);
      x[i + 2 * j + 1] = _mm512_unpackhi_epi64(y[i + j], y[i + j + 2]);
    }
    // Each row of 4 x 4 blocks holds its columns 0, 4, 8, 12 (+ row in the block): transpose the 128-bit quarters.
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    const __m512i a = _mm512_shuffle_i32x4(x[j], x[4 + j], 0x88), b = _mm512_shuffle_i32x4(x[8 + j], x[12 + j], 0x88);
    const __m512i c = _mm512_shuffle_i32x4(x[j], x[4 + j], 0xdd), d = _mm512_shuffle_i32x4(x[8 + j], x[12 + j], 0xdd);
    y[j] = _mm512_shuffle_i32x4(a, b, 0x88);
    y[8 + j] = _mm512_shuffle_i32x4(a, b, 0xdd);
    y[4 + j] = _mm512_shuffle_i32x4(c, d, 0x88);
    y[12 + j] = _mm512_shuffle_i32x4(c, d, 0xdd);
  }
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) x[i] = y[i];
}
/// 16 numbers a and 16 numbers b to bf16 a0 b0 a1 b1 …
inline __m512i interleave(Vec a, Vec b) {
  const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4,
                                         19, 3, 18, 2, 17, 1, 16, 0);
  return _mm512_permutexvar_epi16(order, reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(b, a)));
}
inline Vec first_of(__m512i pairs) { return _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16)); }
inline Vec second_of(__m512i pairs) {
  return _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(static_cast<int>(0xffff0000U))));
}

}  // namespace
}  // namespace sla2::kernels::avx512_bf16
