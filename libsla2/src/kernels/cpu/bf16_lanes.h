// SPDX-License-Identifier: Apache-2.0
// What the AVX-512 + VDPBF16PS files share: vectors of pairs, whole lanes, 2^x. For those files only; nothing of the standard
// library here: its inline functions would be compiled for this instruction set and could be linked into code that runs on
// every CPU.
#pragma once
#include <immintrin.h>

#include <cstdint>

#include "core/dtype.h"

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wuninitialized"        // GCC 12 sees both in its own _mm512_undefined_ps
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // (GCC bug 105593)
#endif

namespace sla2::kernels::avx512_bf16 {
namespace {

using Vec = __m512;
using Pairs = __m512bh;
constexpr int64_t kLanes = 16;

inline Pairs load_pairs(const bf16_t* at) { return reinterpret_cast<Pairs>(_mm512_loadu_si512(at)); }
inline Pairs broadcast_pair(const bf16_t* at) {
  int32_t both;
  __builtin_memcpy(&both, at, sizeof both);
  return reinterpret_cast<Pairs>(_mm512_set1_epi32(both));
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

}  // namespace
}  // namespace sla2::kernels::avx512_bf16
