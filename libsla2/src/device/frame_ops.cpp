// SPDX-License-Identifier: Apache-2.0
#include "device/frame_ops.h"

#include <cmath>

#include "core/core.h"
#include "device/device.h"

namespace sla2::device {
namespace {

int32_t narrow(int64_t value) { return static_cast<int32_t>(value); }

}  // namespace

FrameOps::FrameOps(Gpu& gpu) : gpu_(gpu) {
  gpu_.prepare("sla2_conv_96", cuda::conv_bytes(cuda::kConvColumns));
  gpu_.prepare("sla2_conv_16", cuda::conv_bytes(cuda::kConvFewColumns));
  for (const char* const kernel : {"sla2_pixel_norm", "sla2_softmax_rows", "sla2_planes"}) gpu_.prepare(kernel, 0);
}

void FrameOps::conv(const ConvWeight& weight, const ConvCall& call) {
  SLA2_CHECK(weight.in % kWidthStep == 0 && weight.out % kWidthStep == 0, SLA2_E_UNSUPPORTED,
             "GPU: a convolution of {} to {} channels; the kernels need multiples of {}: decode on the CPU", weight.in,
             weight.out, kWidthStep);
  cuda::ConvParams p{};
  const int64_t per_frame = static_cast<int64_t>(weight.side) * weight.side * weight.out * weight.in;
  p.weight = weight.weight;
  for (int i = 0; i < weight.frames; ++i) {
    const uint16_t* const frame = call.frames[static_cast<size_t>(i)];
    if (frame != nullptr) {
      p.frames[p.count++] = frame;
      continue;
    }
    SLA2_CHECK(p.count == 0, SLA2_E_INTERNAL, "GPU: a frame is missing between others");
    p.weight += per_frame;
  }
  SLA2_CHECK(p.count > 0, SLA2_E_INTERNAL, "GPU: a convolution without frames");
  p.bias = weight.bias, p.residual = call.residual, p.y = call.y;
  p.stride_x = call.stride_x == 0 ? weight.in : call.stride_x, p.stride_y = weight.out;
  p.height = narrow(call.height), p.width = narrow(call.width), p.in = narrow(weight.in), p.out = narrow(weight.out);
  p.side = weight.side, p.doubled = call.doubled ? 1 : 0;
  p.element = call.element == DType::kF32 ? cuda::kElementF32 : cuda::kElementBf16;
  const bool few = weight.out <= 2 * cuda::kConvFewColumns;
  const int columns = few ? cuda::kConvFewColumns : cuda::kConvColumns;
  const int64_t patches =
      ceil_div(call.height << p.doubled, cuda::kConvHeight) * ceil_div(call.width << p.doubled, cuda::kConvWidth);
  start(gpu_, few ? "sla2_conv_16" : "sla2_conv_96", ceil_div(weight.out, columns) * patches, 1, cuda::kConvThreads,
        cuda::conv_bytes(columns), p, stream_);
}

void FrameOps::norm(const void* x, DType element, int64_t pixels, int64_t channels, const float* gamma, bool silu, uint16_t* y) {
  const cuda::PixelNormParams p{x,
                                gamma,
                                y,
                                pixels,
                                narrow(channels),
                                silu ? 1 : 0,
                                element == DType::kF32 ? cuda::kElementF32 : cuda::kElementBf16,
                                std::sqrt(static_cast<float>(channels))};
  start(gpu_, "sla2_pixel_norm", ceil_div(pixels, cuda::kRowsPerBlock), 1, cuda::kRowThreads, 0, p, stream_);
}

void FrameOps::softmax(const float* x, int64_t rows, int64_t width, int64_t stride_x, float scale, uint16_t* y, int64_t filled) {
  const cuda::SoftmaxParams p{x, y, stride_x, filled, narrow(rows), narrow(width), narrow(filled), scale};
  start(gpu_, "sla2_softmax_rows", ceil_div(rows, cuda::kRowsPerBlock), 1, cuda::kRowThreads, 0, p, stream_);
}

void FrameOps::planes(const float* x, int64_t pixels, int64_t stride, int64_t channels, float* y) {
  const cuda::PlanesParams p{x, y, pixels, stride, narrow(channels)};
  start(gpu_, "sla2_planes", ceil_div(pixels, cuda::kRowThreads), 1, cuda::kRowThreads, 0, p, stream_);
}

}  // namespace sla2::device
