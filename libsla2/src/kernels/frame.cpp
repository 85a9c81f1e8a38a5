// SPDX-License-Identifier: Apache-2.0
// Rearranging passes over blocked frames. All are bound by memory, so plain loops in threads do.
#include "kernels/frame.h"

#include <algorithm>
#include <cstring>

#include "core/threads.h"
#include "kernels/elementwise.h"

namespace sla2::kernels {

namespace {

constexpr int64_t kPixelGrain = 1024;  // pixels per task
constexpr int64_t kCopyGrain = 65536;  // floats per task

}  // namespace

void planar_to_frame(const FrameShape& shape, const float* planar, int64_t plane_stride, float* frame) {
  const int64_t pixels = shape.pixels(), block = shape.block;
  parallel_ranges(pixels, kPixelGrain, [&](int64_t begin, int64_t end, int) {
    for (int64_t b = 0; b < shape.blocks(); ++b) {
      float* target = frame + b * pixels * block;
      for (int64_t lane = 0; lane < block; ++lane) {
        const int64_t channel = b * block + lane;
        if (channel < shape.channels) {
          const float* plane = planar + channel * plane_stride;
          for (int64_t p = begin; p < end; ++p) target[p * block + lane] = plane[p];
        } else {
          for (int64_t p = begin; p < end; ++p) target[p * block + lane] = 0.0F;
        }
      }
    }
  });
}

void frame_to_planar_clamped(const FrameShape& shape, const float* frame, float low, float high, float* planar,
                             int64_t plane_stride) {
  const int64_t pixels = shape.pixels(), block = shape.block;
  parallel_ranges(pixels, kPixelGrain, [&](int64_t begin, int64_t end, int) {
    for (int64_t channel = 0; channel < shape.channels; ++channel) {
      const float* source = frame + (channel / block) * pixels * block + channel % block;
      float* plane = planar + channel * plane_stride;
      for (int64_t p = begin; p < end; ++p) {
        const float value = source[p * block];
        plane[p] = value < low ? low : value > high ? high : value;  // keeps NaN, unlike min and max
      }
    }
  });
}

void frame_to_rows(const FrameShape& shape, const float* frame, float* rows) {
  const int64_t pixels = shape.pixels(), block = shape.block, channels = shape.channels;
  parallel_ranges(pixels, kPixelGrain, [&](int64_t begin, int64_t end, int) {
    for (int64_t b = 0; b < shape.blocks(); ++b) {
      const int64_t lanes = std::min(block, channels - b * block);
      for (int64_t p = begin; p < end; ++p)
        for (int64_t lane = 0; lane < lanes; ++lane)
          rows[p * channels + b * block + lane] = frame[(b * pixels + p) * block + lane];
    }
  });
}

void add_rows_to_frame(const FrameShape& shape, const float* rows, const float* bias, float* frame) {
  const int64_t pixels = shape.pixels(), block = shape.block, channels = shape.channels;
  parallel_ranges(pixels, kPixelGrain, [&](int64_t begin, int64_t end, int) {
    for (int64_t b = 0; b < shape.blocks(); ++b) {
      const int64_t lanes = std::min(block, channels - b * block);
      for (int64_t p = begin; p < end; ++p)
        for (int64_t lane = 0; lane < lanes; ++lane) {
          const int64_t channel = b * block + lane;
          frame[(b * pixels + p) * block + lane] += rows[p * channels + channel] + bias[channel];
        }
    }
  });
}

void scatter_phase(const FrameShape& phase, const float* source, int row, int column, float* target) {
  const int64_t width = phase.width, block = phase.block;
  const size_t bytes = static_cast<size_t>(block) * sizeof(float);
  parallel_for(phase.blocks() * phase.height, [&](int64_t line, int) {
    const float* from = source + line * width * block;  // line = block index * H + y
    const int64_t b = line / phase.height, y = line % phase.height;
    float* to = target + (((b * 2 * phase.height + 2 * y + row) * 2 * width) + column) * block;
    for (int64_t x = 0; x < width; ++x) std::memcpy(to + 2 * x * block, from + x * block, bytes);
  });
}

void copy_frame(const FrameShape& shape, const float* source, float* target) {
  parallel_ranges(shape.elements(), kCopyGrain, [&](int64_t begin, int64_t end, int) {
    std::memcpy(target + begin, source + begin, static_cast<size_t>(end - begin) * sizeof(float));
  });
}

void narrow_frame(const FrameShape& shape, const float* source, bf16_t* target) {
  parallel_ranges(shape.elements(), kCopyGrain, [&](int64_t begin, int64_t end, int) {
    elementwise().narrow_bf16(source + begin, target + begin, static_cast<size_t>(end - begin));
  });
}

}  // namespace sla2::kernels
