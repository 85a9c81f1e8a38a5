// SPDX-License-Identifier: Apache-2.0
// AVX2 + F16C conversions, reached only through to_f32(). Exact: every stored value has one fp32 value.
#include <immintrin.h>

#include "weights/convert.h"

namespace sla2::weights {
namespace {

constexpr size_t kStep = 16;

__m128i load8x16(const std::byte* source) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(source)); }

__m256 bf16_lanes(const std::byte* source) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(load8x16(source)), 16));
}

__m256 f16_lanes(const std::byte* source) { return _mm256_cvtph_ps(load8x16(source)); }

// e4m3fn: sign, 4 exponent bits with bias 7, 3 mantissa bits, no infinity, 0x7f NaN. Seen as an fp16 with the exponent
// field one bit short, code<<7 has the value · 2^-8 (fp16 bias 15), subnormals included; F16C then does the work.
__m256 f8e4m3_lanes(const std::byte* source) {
  const __m128i code = _mm_cvtepu8_epi16(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(source)));
  const __m128i magnitude = _mm_and_si128(code, _mm_set1_epi16(0x7f));
  const __m128i sign = _mm_slli_epi16(_mm_and_si128(code, _mm_set1_epi16(0x80)), 8);
  const __m128i nan = _mm_and_si128(_mm_cmpeq_epi16(magnitude, _mm_set1_epi16(0x7f)), _mm_set1_epi16(0x7e00));
  const __m128i half = _mm_or_si128(_mm_or_si128(_mm_slli_epi16(magnitude, 7), sign), nan);
  constexpr float kBiasDifference = 256.0F;  // 2^(15 - 7)
  return _mm256_mul_ps(_mm256_cvtph_ps(half), _mm256_set1_ps(kBiasDifference));
}

template <size_t kBytes, typename Lanes>
size_t convert(const std::byte* source, float* target, size_t count, Lanes&& lanes) {
  const size_t end = count / kStep * kStep;
  for (size_t i = 0; i < end; i += kStep) {
    _mm256_storeu_ps(target + i, lanes(source + i * kBytes));
    _mm256_storeu_ps(target + i + kStep / 2, lanes(source + (i + kStep / 2) * kBytes));
  }
  return end;
}

}  // namespace

size_t to_f32_avx2(DType dtype, const std::byte* source, float* target, size_t count) {
  switch (dtype) {
    case DType::kBF16: return convert<2>(source, target, count, bf16_lanes);
    case DType::kF16: return convert<2>(source, target, count, f16_lanes);
    case DType::kF8E4M3: return convert<1>(source, target, count, f8e4m3_lanes);
    default: return 0;
  }
}

}  // namespace sla2::weights
