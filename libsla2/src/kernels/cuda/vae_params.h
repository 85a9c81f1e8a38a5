// SPDX-License-Identifier: Apache-2.0
// The one parameter of each kernel of the VAE. Frames are channels last: [height, width, channels], channels a multiple of 8 so
// that a pixel starts on 16 bytes.
#pragma once
#include <cstdint>

#include "kernels/cuda/runner_params.h"

namespace sla2::cuda {

// A convolution's block of threads: 16 x 8 pixels of one frame by 96 channels (the widths of Wan-VAE are multiples of 96) or,
// for the three channels of pictures and small test models, by 16.
inline constexpr int kConvThreads = 128, kConvWidth = 16, kConvHeight = 8;
inline constexpr int kConvColumns = 96, kConvFewColumns = 16;
inline constexpr int kConvStages = 3;  ///< of weights: one tap of 32 input channels each
inline constexpr int kConvFrames = 3;  ///< in time, at most
/// A patch with its border, two at a time, or three without one. With the weights' stages 42 KB: two blocks to an SM of 100 KB.
inline constexpr uint32_t kConvPatchRows = 2 * (kConvWidth + 2) * (kConvHeight + 2) < 3 * kConvWidth * kConvHeight
                                               ? 3 * kConvWidth * kConvHeight
                                               : 2 * (kConvWidth + 2) * (kConvHeight + 2);
constexpr uint32_t conv_bytes(int columns) {
  return (static_cast<uint32_t>(kConvStages * columns) + kConvPatchRows) * kGemmStepBytes;
}

/// sla2_conv_96, sla2_conv_16: y = bias + residual + the sum over frames and taps of frame · weightᵀ, causal in time, zeros
/// around frames. `doubled`: the frames are seen twice as high and wide (nearest neighbour), and so is y.
/// Grid (column tiles · patches, 1), column tiles fastest.
struct ConvParams {
  const uint16_t* frames[kConvFrames];  ///< [height, width] pixels of bf16, oldest first; those before the first frame left out
  const uint16_t* weight;               ///< [count, side², out, in] bf16
  const float* bias;                    ///< [out]
  const float* residual;                ///< as y; may be y; null: none
  void* y;                              ///< [height, width] pixels, each doubled
  int64_t stride_x, stride_y;           ///< elements from pixel to pixel
  int32_t height, width;                ///< of the frames
  int32_t in, out;                      ///< channels; out even
  int32_t count;                        ///< of frames
  int32_t side;                         ///< 3 or 1: of the taps' square
  int32_t doubled;                      ///< 0 or 1
  int32_t element;                      ///< of y: kElementF32 or kElementBf16
};

/// sla2_pixel_norm: y = silu(x / max(|x|, 1e-12) · sqrt(width) · gamma) of every pixel. Grid (ceil(pixels / 8), 1).
struct PixelNormParams {
  const void* x;       ///< [pixels, width]
  const float* gamma;  ///< [width]; null: y = x
  uint16_t* y;         ///< [pixels, width] bf16
  int64_t pixels;
  int32_t width, silu;  ///< silu 0: without
  int32_t element;      ///< of x: kElementF32 or kElementBf16
  float root;           ///< sqrt(width)
};

/// sla2_softmax_rows: y = softmax(scale · x) of every row, then zeros. Grid (ceil(rows / 8), 1).
struct SoftmaxParams {
  const float* x;
  uint16_t* y;  ///< bf16
  int64_t stride_x, stride_y;
  int32_t rows, width, filled;  ///< filled: width and the zeros behind it
  float scale;
};

/// sla2_planes: y[c][pixel] = x[pixel][c] between -1 and 1. Grid (ceil(pixels / 256), 1).
struct PlanesParams {
  const float* x;  ///< [pixels] of stride_x
  float* y;        ///< [channels, pixels]
  int64_t pixels, stride_x;
  int32_t channels;
};

}  // namespace sla2::cuda
