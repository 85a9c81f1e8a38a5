// SPDX-License-Identifier: Apache-2.0
// RMS_norm + SiLU for pixels [begin, end), eight channels per register. Compiled for AVX2, reached through active_isa().
#include <hwy/highway.h>
// contrib math follows highway.h
#include <hwy/contrib/math/math-inl.h>

#include <algorithm>
#include <cmath>

#include "kernels/rms_silu.h"

static_assert(HWY_STATIC_TARGET == HWY_AVX2, "this file is compiled for AVX2");

namespace sla2::kernels::avx2 {

namespace hn = hwy::HWY_NAMESPACE;

namespace {

constexpr int64_t kLanes = 8;
constexpr int64_t kTile = 64;       // pixels whose partial sums stay in L1
constexpr float kExpLimit = 87.0F;  // exp stays finite; beyond it SiLU is zero to fp32 anyway

using Floats = hn::FixedTag<float, kLanes>;

}  // namespace

void rms_silu_pixels(const FrameShape& shape, const float* src, const float* gamma, bool silu, float* dst, int64_t begin,
                     int64_t end) {
  const Floats d;
  const int64_t pixels = shape.pixels(), block = shape.block, blocks = shape.blocks();
  const auto one = hn::Set(d, 1.0F), limit = hn::Set(d, kExpLimit);
  const float root = std::sqrt(static_cast<float>(shape.channels));
  alignas(32) float sums[kTile * kLanes];
  float scales[kTile];
  for (int64_t first = begin; first < end; first += kTile) {
    const int64_t count = std::min(kTile, end - first);
    std::fill_n(sums, count * kLanes, 0.0F);
    for (int64_t b = 0; b < blocks; ++b) {
      const float* x = src + (b * pixels + first) * block;
      for (int64_t p = 0; p < count; ++p) {
        auto sum = hn::Load(d, sums + p * kLanes);
        for (int64_t lane = 0; lane < block; lane += kLanes) {
          const auto value = hn::LoadU(d, x + p * block + lane);
          sum = hn::MulAdd(value, value, sum);
        }
        hn::Store(sum, d, sums + p * kLanes);
      }
    }
    for (int64_t p = 0; p < count; ++p) {
      const float norm = std::sqrt(hn::GetLane(hn::SumOfLanes(d, hn::Load(d, sums + p * kLanes))));
      scales[p] = root / (norm > kRmsNormEps || std::isnan(norm) ? norm : kRmsNormEps);
    }
    for (int64_t b = 0; b < blocks; ++b) {
      for (int64_t lane = 0; lane < block; lane += kLanes) {
        const auto factor = hn::LoadU(d, gamma + b * block + lane);
        const int64_t offset = (b * pixels + first) * block + lane;
        for (int64_t p = 0; p < count; ++p) {
          auto value = hn::Mul(hn::Mul(hn::LoadU(d, src + offset + p * block), hn::Set(d, scales[p])), factor);
          if (silu) value = hn::Div(value, hn::Add(one, hn::Exp(d, hn::Min(hn::Neg(value), limit))));
          hn::StoreU(value, d, dst + offset + p * block);
        }
      }
    }
  }
}

}  // namespace sla2::kernels::avx2
