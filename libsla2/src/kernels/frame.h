// SPDX-License-Identifier: Apache-2.0
// One frame of features in the layout oneDNN's direct convolutions like best: [ceil(C/block)][H][W][block] fp32,
// channels that do not exist are zero. And the passes that enter, leave and rearrange it.
#pragma once
#include <cstddef>
#include <cstdint>

#include "core/dtype.h"

namespace sla2::kernels {

/// Channels per block: 16 where oneDNN runs its AVX-512 convolutions, else 8.
[[nodiscard]] int64_t preferred_block();

struct FrameShape {
  int64_t channels = 0, height = 0, width = 0;
  int64_t block = 8;
  [[nodiscard]] int64_t blocks() const noexcept { return (channels + block - 1) / block; }
  [[nodiscard]] int64_t pixels() const noexcept { return height * width; }
  [[nodiscard]] int64_t elements() const noexcept { return blocks() * block * pixels(); }
};

/// Planar [C,H,W], each plane `plane_stride` elements after the last, into a frame.
void planar_to_frame(const FrameShape& shape, const float* planar, int64_t plane_stride, float* frame);
/// A frame into planar [C,H,W]; values are clamped to [low, high] (NaN passes).
void frame_to_planar_clamped(const FrameShape& shape, const float* frame, float low, float high, float* planar,
                             int64_t plane_stride);

/// A frame into rows [H*W, C].
void frame_to_rows(const FrameShape& shape, const float* frame, float* rows);
/// frame += rows [H*W, C] + bias [C].
void add_rows_to_frame(const FrameShape& shape, const float* rows, const float* bias, float* frame);

/// Put a frame [C,H,W] on the pixels (2y + row, 2x + column) of a frame [C,2H,2W].
void scatter_phase(const FrameShape& phase, const float* source, int row, int column, float* target);

/// target = source, threaded.
void copy_frame(const FrameShape& shape, const float* source, float* target);
/// The same as bf16, nearest even.
void narrow_frame(const FrameShape& shape, const float* source, bf16_t* target);

}  // namespace sla2::kernels
