// SPDX-License-Identifier: Apache-2.0
// Threads and choice of instruction set for kernels/rms_silu.h.
#include "kernels/rms_silu.h"

#include "core/caps.h"
#include "core/threads.h"

namespace sla2::kernels {

namespace {
constexpr int64_t kPixelGrain = 512;  // pixels per task: 512 * 96 channels * 4 bytes stay in a core's L2
}

void rms_silu(const FrameShape& shape, const float* src, const float* gamma, bool silu, float* dst) {
  const auto pixels = active_isa() >= Isa::kAvx2 ? avx2::rms_silu_pixels : ref::rms_silu_pixels;
  parallel_ranges(shape.pixels(), kPixelGrain,
                  [&](int64_t begin, int64_t end, int) { pixels(shape, src, gamma, silu, dst, begin, end); });
}

}  // namespace sla2::kernels
