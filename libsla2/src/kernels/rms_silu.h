// SPDX-License-Identifier: Apache-2.0
// Wan-VAE's RMS_norm over the channels of every pixel, with or without the SiLU that follows it, in one pass over a frame:
//   y = x / max(|x|_2, 1e-12) * sqrt(C) * gamma,  then y * sigmoid(y).
// fp32 in; fp32 out, in place allowed, or bf16 for the products that follow where has_fast_bf16(). The scalar version sums in
// fp64.
#pragma once
#include <cstdint>

#include "core/dtype.h"
#include "kernels/frame.h"

namespace sla2::kernels {

constexpr float kRmsNormEps = 1e-12F;  // torch.nn.functional.normalize's default

/// gamma: [blocks * block], zero for channels that only fill the last block.
void rms_silu(const FrameShape& shape, const float* src, const float* gamma, bool silu, float* dst);
void rms_silu(const FrameShape& shape, const float* src, const float* gamma, bool silu, bf16_t* dst);

namespace ref {
void rms_silu_pixels(const FrameShape& shape, const float* src, const float* gamma, bool silu, float* dst, int64_t begin,
                     int64_t end);
void rms_silu_pixels(const FrameShape& shape, const float* src, const float* gamma, bool silu, bf16_t* dst, int64_t begin,
                     int64_t end);
}  // namespace ref
namespace avx2 {
void rms_silu_pixels(const FrameShape& shape, const float* src, const float* gamma, bool silu, float* dst, int64_t begin,
                     int64_t end);
}
namespace avx512_bf16 {
/// shape.block is 16.
void rms_silu_pixels(const FrameShape& shape, const float* src, const float* gamma, bool silu, bf16_t* dst, int64_t begin,
                     int64_t end);
}  // namespace avx512_bf16

}  // namespace sla2::kernels
