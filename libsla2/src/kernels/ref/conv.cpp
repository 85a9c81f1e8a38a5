// SPDX-License-Identifier: Apache-2.0
// The convolution of kernels/conv.h from its formula: the oracle of the unit tests.
#include "kernels/conv.h"

namespace sla2::kernels::ref {

namespace {

int64_t at(const FrameShape& shape, int64_t channel, int64_t y, int64_t x) {
  return (((channel / shape.block) * shape.height + y) * shape.width + x) * shape.block + channel % shape.block;
}

}  // namespace

void conv(const ConvGeometry& g, const FrameShape& input, const float* weights, const float* bias, const float* src, float* dst,
          bool accumulate) {
  const FrameShape output = g.output(input);
  for (int64_t channel = 0; channel < output.blocks() * output.block; ++channel)
    for (int64_t y = 0; y < output.height; ++y)
      for (int64_t x = 0; x < output.width; ++x) {
        float& target = dst[at(output, channel, y, x)];
        if (channel >= output.channels) {
          target = 0.0F;  // channels that only fill the block
          continue;
        }
        double sum = (accumulate ? target : 0.0) + (bias != nullptr ? bias[channel] : 0.0);
        for (int64_t c = 0; c < input.channels; ++c)
          for (int64_t ky = 0; ky < g.kernel_h; ++ky)
            for (int64_t kx = 0; kx < g.kernel_w; ++kx) {
              const int64_t sy = y * g.stride + ky - g.pad_top, sx = x * g.stride + kx - g.pad_left;
              if (sy < 0 || sx < 0 || sy >= input.height || sx >= input.width) continue;
              sum += static_cast<double>(weights[((channel * g.in_channels + c) * g.kernel_h + ky) * g.kernel_w + kx]) *
                     src[at(input, c, sy, sx)];
            }
        target = static_cast<float>(sum);
      }
}

}  // namespace sla2::kernels::ref
