// SPDX-License-Identifier: Apache-2.0
// Frames [count,3,H,W] in [-1,1] to [count,H,W,3] bytes.
#include <atomic>
#include <cmath>

#include "video/video.h"

namespace sla2::video {

namespace {

constexpr int64_t kChannels = 3;
constexpr float kHalfRange = 127.5F;  // (x/2 + 0.5) * 255 = x * 127.5 + 127.5

/// Round half up; the argument is never negative after the clamp.
uint8_t to_byte(float value) {
  const float scaled = value * kHalfRange + kHalfRange;
  const float clamped = scaled < 0.0F ? 0.0F : scaled > 255.0F ? 255.0F : scaled;
  return static_cast<uint8_t>(clamped + 0.5F);
}

}  // namespace

void frames_to_rgb(const vae::FrameChunk& chunk, std::vector<uint8_t>& rgb) {
  const int64_t pixels = chunk.height * chunk.width, lines = chunk.count * chunk.height;
  rgb.resize(static_cast<size_t>(chunk.count * pixels * kChannels));
  std::vector<uint8_t> bad(static_cast<size_t>(lines), 0);
  parallel_for(lines, [&](int64_t line, int) {
    const int64_t frame = line / chunk.height, y = line % chunk.height;
    const float* source = chunk.values + frame * kChannels * pixels + y * chunk.width;
    uint8_t* target = rgb.data() + line * chunk.width * kChannels;
    float probe = 0.0F;  // NaN if any value is NaN or infinite
    for (int64_t c = 0; c < kChannels; ++c) {
      const float* plane = source + c * pixels;
      for (int64_t x = 0; x < chunk.width; ++x) probe += plane[x] * 0.0F;
    }
    if (probe != 0.0F) {
      bad[static_cast<size_t>(line)] = 1;
      return;
    }
    for (int64_t x = 0; x < chunk.width; ++x)
      for (int64_t c = 0; c < kChannels; ++c) target[x * kChannels + c] = to_byte(source[c * pixels + x]);
  });
  for (int64_t line = 0; line < lines; ++line)
    SLA2_CHECK(bad[static_cast<size_t>(line)] == 0, SLA2_E_NUMERIC,
               "frame {} holds NaN or infinite values (row {}): the VAE was given a broken latent or has broken weights",
               chunk.first + line / chunk.height, line % chunk.height);
}

}  // namespace sla2::video
