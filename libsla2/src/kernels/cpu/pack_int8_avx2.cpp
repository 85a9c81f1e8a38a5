// SPDX-License-Identifier: Apache-2.0
// What eight-bit attention multiplies, AVX2: queries and keys to bytes, values to bf16. Eight channels at a time: D is a multiple
// of it. No inline functions of the standard library here: their AVX2 copies could end up in code that runs on every CPU.
#include <immintrin.h>

#include "kernels/attend_bf16.h"
#include "kernels/attend_int8.h"
#include "kernels/panel_gemm.h"

namespace sla2::kernels::avx2 {
namespace {

constexpr int64_t kEight = 8;
constexpr float kSteps = 127, kLeast = 1e-35F;

inline __m256 magnitude(__m256 x) { return _mm256_and_ps(x, _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff))); }
inline __m256 finite_lanes(__m256 x) { return _mm256_cmp_ps(magnitude(x), _mm256_set1_ps(__builtin_inff()), _CMP_LT_OQ); }
inline float largest_lane(__m256 x) {
  __m128 y = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  y = _mm_max_ps(y, _mm_movehl_ps(y, y));
  return _mm_cvtss_f32(_mm_max_ss(y, _mm_movehdup_ps(y)));
}

/// `top` moves to the largest magnitude among what is finite. @return is the whole row?
inline bool measure_row(const float* x, int64_t dim, __m256& top) {
  __m256 all = _mm256_castsi256_ps(_mm256_set1_epi32(-1));
  for (int64_t c = 0; c < dim; c += kEight) {
    const __m256 at = _mm256_loadu_ps(x + c), finite = finite_lanes(at);
    all = _mm256_and_ps(all, finite);
    top = _mm256_max_ps(top, _mm256_and_ps(magnitude(at), finite));
  }
  constexpr int kAll = 0xff;
  return _mm256_movemask_ps(all) == kAll;
}

/// Steps per unit, 0 for a block of zeros.
inline float steps_per_unit(float top) { return top < kLeast ? 0.0F : kSteps / top; }
inline float step_of(float top) { return top < kLeast ? 0.0F : top / kSteps; }

/// Eight numbers to steps; what is not finite becomes 0.
inline __m256i steps_of(const float* x, __m256 steps) {
  const __m256 at = _mm256_loadu_ps(x);
  return _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_and_ps(at, finite_lanes(at)), steps));
}
/// Eight numbers of -127 … 127 as bytes.
inline int64_t to_bytes(__m256i x) {
  const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
  return _mm_cvtsi128_si64(_mm_packs_epi16(words, words));
}

/// Eight numbers rounded to bf16, ties to even, in the upper halves; a NaN is quiet.
inline __m256i to_upper_halves(__m256 x) {
  const __m256i bits = _mm256_castps_si256(x);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i up = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
  const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
  const __m256 either = _mm256_blendv_ps(_mm256_castsi256_ps(up), _mm256_castsi256_ps(quiet), _mm256_cmp_ps(x, x, _CMP_UNORD_Q));
  return _mm256_and_si256(_mm256_castps_si256(either), _mm256_set1_epi32(static_cast<int>(0xffff0000U)));
}

}  // namespace

void quantise_rows_int8(const float* rows, int64_t n, int64_t dim, int8_t* out, float* scale, int32_t* offset) {
  __m256 top = _mm256_setzero_ps();
  for (int64_t t = 0; t < n; ++t) scale[t] = measure_row(rows + t * dim, dim, top) ? 0.0F : __builtin_nanf("");
  const float largest = largest_lane(top);
  const __m256 steps = _mm256_set1_ps(steps_per_unit(largest));
  for (int64_t t = 0; t < n; ++t) {
    scale[t] += step_of(largest);
    __m256i sums = _mm256_setzero_si256();
    for (int64_t c = 0; c < dim; c += kEight) {
      const __m256i q = steps_of(rows + t * dim + c, steps);
      sums = _mm256_add_epi32(sums, q);
      const int64_t bytes = to_bytes(q);
      __builtin_memcpy(out + t * dim + c, &bytes, sizeof bytes);
    }
    __m128i sum = _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1));
    sum = _mm_add_epi32(sum, _mm_unpackhi_epi64(sum, sum));
    constexpr int32_t kShift = -128;
    offset[t] = kShift * (_mm_cvtsi128_si32(sum) + _mm_extract_epi32(sum, 1));
  }
}

void pack_keys_int8(const float* rows, int64_t n, int64_t dim, int64_t block, uint8_t* out, float* scale) {
  __m256 top = _mm256_setzero_ps();
  bool finite = true;
  for (int64_t t = 0; t < n; ++t) finite = measure_row(rows + t * dim, dim, top) && finite;
  const float largest = largest_lane(top);
  *scale = finite ? step_of(largest) : __builtin_nanf("");
  const __m256 steps = _mm256_set1_ps(steps_per_unit(largest));
  constexpr int64_t kFour = 4;
  constexpr uint64_t kPlus128 = 0x8080808080808080U;
  for (int64_t t = 0; t < block; ++t)
    for (int64_t c = 0; c < dim; c += kEight) {
      const int64_t bytes = t < n ? to_bytes(steps_of(rows + t * dim + c, steps)) : 0;
      const uint64_t shifted = static_cast<uint64_t>(bytes) ^ kPlus128;
      uint8_t* const line = out + (c / kFour * block + t) * kFour;
      __builtin_memcpy(line, &shifted, kFour);
      const auto second = static_cast<uint32_t>(shifted >> 32U);
      __builtin_memcpy(line + block * kFour, &second, kFour);
    }
}

void pack_values_bf16(const float* rows, int64_t n, int64_t dim, int64_t block, bf16_t* out) {
  const int64_t width = panels_of(dim) * kPanel;
  const auto upper = [&](int64_t t, int64_t c) {
    return t < n && c < dim ? to_upper_halves(_mm256_loadu_ps(rows + t * dim + c)) : _mm256_setzero_si256();
  };
  for (int64_t t = 0; t < block; t += 2, out += 2 * width)
    for (int64_t c = 0; c < width; c += kEight)
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + 2 * c),
                          _mm256_or_si256(_mm256_srli_epi32(upper(t, c), 16), upper(t + 1, c)));
}

}  // namespace sla2::kernels::avx2
