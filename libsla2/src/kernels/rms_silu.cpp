// SPDX-License-Identifier: Apache-2.0
// Threads and choice of instruction set for kernels/rms_silu.h.
#include "kernels/rms_silu.h"

#include "core/caps.h"
#include "core/threads.h"

namespace sla2::kernels {

namespace {
constexpr int64_t kPixelGrain = 512;  // pixels per task: 512 * 96 channels * 4 bytes stay in a core's L2
constexpr int64_t kAvx512Block = 16;

using Wide = void(const FrameShape&, const float*, const float*, bool, float*, int64_t, int64_t);
using Narrow = void(const FrameShape&, const float*, const float*, bool, bf16_t*, int64_t, int64_t);
}  // namespace

void rms_silu(const FrameShape& shape, const float* src, const float* gamma, bool silu, float* dst) {
  const auto pixels = active_isa() >= Isa::kAvx2 ? avx2::rms_silu_pixels : static_cast<Wide*>(ref::rms_silu_pixels);
  parallel_ranges(shape.pixels(), kPixelGrain,
                  [&](int64_t begin, int64_t end, int) { pixels(shape, src, gamma, silu, dst, begin, end); });
}

void rms_silu(const FrameShape& shape, const float* src, const float* gamma, bool silu, bf16_t* dst) {
  const bool fast = active_isa() >= Isa::kAvx512Bf16 && shape.block == kAvx512Block;
  parallel_ranges(shape.pixels(), kPixelGrain, [&](int64_t begin, int64_t end, int) {
    (fast ? avx512_bf16::rms_silu_pixels : static_cast<Narrow*>(ref::rms_silu_pixels))(shape, src, gamma, silu, dst, begin, end);
  });
}

}  // namespace sla2::kernels
