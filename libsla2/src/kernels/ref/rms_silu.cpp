// SPDX-License-Identifier: Apache-2.0
// Scalar RMS_norm + SiLU for pixels [begin, end).
#include "kernels/rms_silu.h"

#include <algorithm>
#include <cmath>

namespace sla2::kernels::ref {

namespace {

void put(double value, float& target) { target = static_cast<float>(value); }
void put(double value, bf16_t& target) { target = f32_to_bf16(static_cast<float>(value)); }

template <typename Out>
void pixels_of(const FrameShape& shape, const float* src, const float* gamma, bool silu, Out* dst, int64_t begin, int64_t end) {
  const int64_t pixels = shape.pixels(), block = shape.block;
  const double root = std::sqrt(static_cast<double>(shape.channels));
  for (int64_t p = begin; p < end; ++p) {
    double squares = 0.0;
    for (int64_t b = 0; b < shape.blocks(); ++b)
      for (int64_t lane = 0; lane < block; ++lane) {
        const double value = src[(b * pixels + p) * block + lane];
        squares += value * value;
      }
    const double scale = root / std::max(std::sqrt(squares), static_cast<double>(kRmsNormEps));
    for (int64_t b = 0; b < shape.blocks(); ++b)
      for (int64_t lane = 0; lane < block; ++lane) {
        const int64_t at = (b * pixels + p) * block + lane;
        const double value = src[at] * scale * gamma[b * block + lane];
        put(silu ? value / (1.0 + std::exp(-value)) : value, dst[at]);
      }
  }
}

}  // namespace

void rms_silu_pixels(const FrameShape& shape, const float* src, const float* gamma, bool silu, float* dst, int64_t begin,
                     int64_t end) {
  pixels_of(shape, src, gamma, silu, dst, begin, end);
}

void rms_silu_pixels(const FrameShape& shape, const float* src, const float* gamma, bool silu, bf16_t* dst, int64_t begin,
                     int64_t end) {
  pixels_of(shape, src, gamma, silu, dst, begin, end);
}

}  // namespace sla2::kernels::ref
