// SPDX-License-Identifier: Apache-2.0
// Elementwise step of attention's backward, AVX-512 + bf16: two rows at a time become pairs.
#include "kernels/cpu/bf16_vectors.h"
#include "kernels/softmax_gradient.h"

namespace sla2::kernels::avx512_bf16 {
namespace {

struct Line {
  __m256i p, ds;  ///< 16 columns of one row in bf16
};

inline Line weigh(const SoftmaxGradient& a, int64_t row, int64_t column, __mmask16 mask) {
  const int64_t at = row * a.stride + column;
  Vec origin = _mm512_set1_ps(a.top[row]);
  if (a.bias != nullptr) origin = _mm512_sub_ps(origin, _mm512_loadu_ps(a.bias + column));
  const Vec p = _mm512_mul_ps(_mm512_set1_ps(a.weight[row]),
                              exp2_weight(_mm512_fmsub_ps(_mm512_loadu_ps(a.s + at), _mm512_set1_ps(a.log_scale), origin)));
  const Vec d = _mm512_sub_ps(_mm512_loadu_ps(a.d + at), _mm512_set1_ps(a.mean[row]));
  const Vec ds = _mm512_mul_ps(_mm512_set1_ps(a.scale), _mm512_mul_ps(p, d));
  return {reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(_mm512_maskz_mov_ps(mask, p))),
          reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(_mm512_maskz_mov_ps(mask, ds)))};
}

inline void store_pairs(__m256i even, __m256i odd, bf16_t* out) {
  _mm512_storeu_si512(out, _mm512_or_si512(_mm512_cvtepu16_epi32(even), _mm512_slli_epi32(_mm512_cvtepu16_epi32(odd), 16)));
}

}  // namespace

void softmax_gradient_bf16(const SoftmaxGradient& a, const GradientPairs& out) {
  for (int64_t r = 0; r < a.rows; r += 2)
    for (int64_t n = 0; n < a.cols; n += kLanes) {
      const auto mask = static_cast<__mmask16>((1U << least(kLanes, a.cols - n)) - 1U);
      const Line even = weigh(a, r, n, mask);
      Line odd{_mm256_setzero_si256(), _mm256_setzero_si256()};
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(out.ds + r * a.stride + n), even.ds);
      if (r + 1 < a.rows) {
        odd = weigh(a, r + 1, n, mask);
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(out.ds + (r + 1) * a.stride + n), odd.ds);
      }
      const int64_t pair = (r / 2 * a.stride + n) * 2;
      store_pairs(even.p, odd.p, out.p_pairs + pair);
      store_pairs(even.ds, odd.ds, out.ds_pairs + pair);
    }
}

}  // namespace sla2::kernels::avx512_bf16
