// SPDX-License-Identifier: Apache-2.0
// What the VAE does on a GPU, as calls that queue one kernel each, beside the products of ops.h. Frames are channels last,
// [height, width, channels]; channels are multiples of 8. Nothing is allocated and nothing waits.
#pragma once
#include <array>
#include <cstdint>

#include "core/dtype.h"
#include "kernels/cuda/vae_params.h"

namespace sla2::device {

class Gpu;

/// A convolution's weights on the GPU.
struct ConvWeight {
  const uint16_t* weight = nullptr;  ///< [frames, side², out, in] bf16, the oldest frame's first
  const float* bias = nullptr;       ///< [out]
  int64_t in = 0, out = 0;
  int frames = 1;  ///< that a result sees: its own and those before; 1 or 3
  int side = 3;    ///< of the square of taps: 3 or 1
};

/// One frame's turn.
struct ConvCall {
  /// Oldest first; null: before the first frame, zeros. The first `frames` of the weight count.
  std::array<const uint16_t*, cuda::kConvFrames> frames{};
  int64_t height = 0, width = 0;
  int64_t stride_x = 0;  ///< elements from pixel to pixel; 0: in
  bool doubled = false;  ///< seen twice as high and wide, nearest neighbour
  void* y = nullptr;     ///< [height, width] pixels of `out`, twice of both where doubled
  DType element = DType::kF32;
  const float* residual = nullptr;  ///< added; may be y
};

class FrameOps {
 public:
  /// Loads the kernels. The GPU outlives it.
  explicit FrameOps(Gpu& gpu);
  /// The stream of everything that follows.
  void use_stream(void* stream) noexcept { stream_ = stream; }

  void conv(const ConvWeight& weight, const ConvCall& call);
  /// y = x / |x| · sqrt(channels) · gamma of every pixel, then SiLU; gamma null: x as it is.
  void norm(const void* x, DType element, int64_t pixels, int64_t channels, const float* gamma, bool silu, uint16_t* y);
  /// y [rows, filled] = softmax(scale · x [rows, width]), zeros from `width` on. Rows are stride_x, and filled, elements apart.
  void softmax(const float* x, int64_t rows, int64_t width, int64_t stride_x, float scale, uint16_t* y, int64_t filled);
  /// y [channels, pixels] = x [pixels, stride] between -1 and 1.
  void planes(const float* x, int64_t pixels, int64_t stride, int64_t channels, float* y);

 private:
  Gpu& gpu_;
  void* stream_ = nullptr;
};

}  // namespace sla2::device
