// SPDX-License-Identifier: Apache-2.0
// RMS_norm + SiLU for pixels [begin, end) to bf16, AVX-512, a block of 16 channels per register. Nothing of the standard library
// here: its inline functions would be compiled for this instruction set and could be linked into code that runs on every CPU.
#include <immintrin.h>

#include "kernels/rms_silu.h"

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wuninitialized"        // GCC 12 sees both in its own _mm512_undefined_ps
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // (GCC bug 105593)
#endif

namespace sla2::kernels::avx512_bf16 {
namespace {

using Vec = __m512;
constexpr int64_t kLanes = 16;
constexpr int64_t kTile = 64;  // pixels whose partial sums stay in L1

/// x / (1 + e^-x). 2^t for t = -x log2 e: n = round(t), minimax of degree 4 on the rest (2.8e-6, far below bf16's 2e-3), exponent
/// by VSCALEF, which overflows to infinity. NaN stays NaN: MINPS and MAXPS return their second operand.
inline Vec silu_of(Vec x) {
  const Vec limit = _mm512_set1_ps(200.0F), none = _mm512_set1_ps(-200.0F);
  const Vec t = _mm512_max_ps(none, _mm512_min_ps(limit, _mm512_mul_ps(x, _mm512_set1_ps(-0x1.715476p0F))));
  const Vec n = _mm512_roundscale_ps(t, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const Vec f = _mm512_sub_ps(t, n);
  Vec p = _mm512_set1_ps(0x1.3a02ccp-7F);
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0x1.c9fc46p-5F));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0x1.ec0378p-3F));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0x1.62e12cp-1F));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.0F));
  return _mm512_div_ps(x, _mm512_add_ps(_mm512_set1_ps(1.0F), _mm512_scalef_ps(p, n)));
}

}  // namespace

void rms_silu_pixels(const FrameShape& shape, const float* src, const float* gamma, bool silu, bf16_t* dst, int64_t begin,
                     int64_t end) {
  const int64_t pixels = shape.height * shape.width, blocks = (shape.channels + kLanes - 1) / kLanes;
  const float root = __builtin_sqrtf(static_cast<float>(shape.channels));
  alignas(64) float sums[kTile * kLanes];
  float scales[kTile];
  for (int64_t first = begin; first < end; first += kTile) {
    const int64_t count = end - first < kTile ? end - first : kTile;
    for (int64_t b = 0; b < blocks; ++b) {
      const float* const x = src + (b * pixels + first) * kLanes;
      for (int64_t p = 0; p < count; ++p) {
        const Vec value = _mm512_loadu_ps(x + p * kLanes);
        const Vec sum = b == 0 ? _mm512_setzero_ps() : _mm512_load_ps(sums + p * kLanes);
        _mm512_store_ps(sums + p * kLanes, _mm512_fmadd_ps(value, value, sum));
      }
    }
    for (int64_t p = 0; p < count; ++p) {
      const float norm = __builtin_sqrtf(_mm512_reduce_add_ps(_mm512_load_ps(sums + p * kLanes)));
      scales[p] = root / (norm <= kRmsNormEps ? kRmsNormEps : norm);  // NaN stays
    }
    for (int64_t b = 0; b < blocks; ++b) {
      const Vec factor = _mm512_loadu_ps(gamma + b * kLanes);
      const int64_t offset = (b * pixels + first) * kLanes;
      for (int64_t p = 0; p < count; ++p) {
        const Vec scaled = _mm512_mul_ps(_mm512_loadu_ps(src + offset + p * kLanes), _mm512_set1_ps(scales[p]));
        Vec value = _mm512_mul_ps(scaled, factor);
        if (silu) value = silu_of(value);
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(dst + offset + p * kLanes),
                            reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(value)));
      }
    }
  }
}

}  // namespace sla2::kernels::avx512_bf16
