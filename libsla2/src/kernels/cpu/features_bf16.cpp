// SPDX-License-Identifier: Apache-2.0
// φ rounded to bf16, AVX-512.
#include "kernels/cpu/bf16_vectors.h"
#include "kernels/linear_bf16.h"

namespace sla2::kernels::avx512_bf16 {
namespace {

constexpr int64_t kMaxVecs = 16;  // D up to 256

/// The vectors of a row: all whole, but the last may hold half (D is a multiple of 8).
struct Row {
  int64_t vecs;
  __mmask16 last;
  explicit Row(int64_t dim)
      : vecs((dim + kLanes - 1) / kLanes), last(dim % kLanes == 0 ? __mmask16{0xffff} : __mmask16{0x00ff}) {}
  [[nodiscard]] __mmask16 mask(int64_t v) const { return v + 1 == vecs ? last : __mmask16{0xffff}; }
};

/// e = 2^((x - max) · log2 e), zero past the end. @return 1 / Σ e in every lane
inline Vec exponentials(const Row& row, const float* x, Vec* e) {
  const Vec none = _mm512_set1_ps(-__builtin_inff());
  Vec top = none;
  for (int64_t v = 0; v < row.vecs; ++v) {
    e[v] = _mm512_mask_loadu_ps(none, row.mask(v), x + v * kLanes);
    top = _mm512_max_ps(e[v], top);  // a NaN is passed over here and met again below
  }
  top = _mm512_set1_ps(_mm512_reduce_max_ps(top));
  const Vec log2e = _mm512_set1_ps(0x1.715476p+0F);
  Vec sum = _mm512_setzero_ps();
  for (int64_t v = 0; v < row.vecs; ++v) {
    e[v] = _mm512_maskz_mov_ps(row.mask(v), exp2_weight(_mm512_mul_ps(_mm512_sub_ps(e[v], top), log2e)));
    sum = _mm512_add_ps(sum, e[v]);
  }
  return _mm512_set1_ps(1.0F / _mm512_reduce_add_ps(sum));
}

/// bf16 in the lower half of each lane.
inline __m512i narrow(Vec x) { return _mm512_cvtepu16_epi32(reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(x))); }

}  // namespace

void features_bf16(int64_t rows, int64_t dim, const float* x, bf16_t* out) {
  const Row row(dim);
  Vec e[kMaxVecs];
  for (int64_t r = 0; r < rows; ++r, x += dim, out += dim) {
    const Vec scale = exponentials(row, x, e);
    for (int64_t v = 0; v < row.vecs; ++v)
      _mm256_mask_storeu_epi16(out + v * kLanes, row.mask(v),
                               reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(_mm512_mul_ps(e[v], scale))));
  }
}

void key_features_bf16(const float* rows, int64_t n, int64_t dim, int64_t block, bf16_t* out, float* z) {
  const Row row(dim);
  Vec sum[kMaxVecs], one[kMaxVecs], two[kMaxVecs];
  for (int64_t v = 0; v < row.vecs; ++v) sum[v] = two[v] = _mm512_setzero_ps();
  for (int64_t t = 0; t < block; t += 2, rows += 2 * dim, out += 2 * row.vecs * kLanes) {
    if (t >= n) {
      for (int64_t v = 0; v < row.vecs; ++v) _mm512_storeu_si512(out + 2 * v * kLanes, _mm512_setzero_si512());
      continue;
    }
    const Vec first = exponentials(row, rows, one);
    Vec second = _mm512_setzero_ps();
    if (t + 1 < n) {
      second = exponentials(row, rows + dim, two);
    } else {
      for (int64_t v = 0; v < row.vecs; ++v) two[v] = _mm512_setzero_ps();
    }
    for (int64_t v = 0; v < row.vecs; ++v) {
      const __m512i low = narrow(_mm512_mul_ps(one[v], first)),
                    high = _mm512_slli_epi32(narrow(_mm512_mul_ps(two[v], second)), 16);
      _mm512_storeu_si512(out + 2 * v * kLanes, _mm512_or_si512(low, high));
      sum[v] = _mm512_add_ps(sum[v], _mm512_castsi512_ps(_mm512_slli_epi32(low, 16)));
      sum[v] = _mm512_add_ps(sum[v], _mm512_castsi512_ps(high));
    }
  }
  for (int64_t v = 0; v < row.vecs; ++v) _mm512_mask_storeu_ps(z + v * kLanes, row.mask(v), sum[v]);
}

}  // namespace sla2::kernels::avx512_bf16
