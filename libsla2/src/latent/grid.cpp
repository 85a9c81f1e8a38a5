// SPDX-License-Identifier: Apache-2.0
// Video sizes -> latent sizes -> DiT tokens and back. In: pixel sizes, or a latent [C, F, H, W] fp32. Out: sizes, or tokens
// [F*(H/2)*(W/2), C*4] fp32. Copies only, no arithmetic.
#include <algorithm>

#include "latent/latent.h"

namespace sla2::latent {
namespace {

constexpr int64_t kTemporalStride = 4;  // Wan-VAE: frames 4k+1 -> k+1 latent frames
constexpr int64_t kSpatialStride = 8;   // Wan-VAE: three spatial halvings
constexpr int64_t kPatch = 2;           // DiT patch (1, 2, 2)
constexpr int64_t kPixelMultiple = kSpatialStride * kPatch;
constexpr int64_t kMaxPositions = 1024;  // Wan's RoPE tables end here, on each of the three axes
constexpr int64_t kMaxFrames = (kMaxPositions - 1) * kTemporalStride + 1;
constexpr int64_t kMaxPixels = kMaxPositions * kPixelMultiple;

void check_pixels(const char* what, int64_t value) {
  if (value >= kPixelMultiple && value <= kMaxPixels && value % kPixelMultiple == 0) return;
  const int64_t below = std::clamp(value / kPixelMultiple * kPixelMultiple, kPixelMultiple, kMaxPixels);
  const int64_t above = std::clamp(below + kPixelMultiple, kPixelMultiple, kMaxPixels);
  const bool outside = value < kPixelMultiple || value > kMaxPixels;
  fail(SLA2_E_ARGUMENT, "{}: expected a multiple of {} from {} to {}, got {}; use {}", what, kPixelMultiple, kPixelMultiple,
       kMaxPixels, value, outside ? fmt::format("{}", below) : fmt::format("{} or {}", below, above));
}

void check_frames(int64_t frames) {
  if (frames >= 1 && frames <= kMaxFrames && (frames - 1) % kTemporalStride == 0) return;
  const bool outside = frames < 1 || frames > kMaxFrames;
  const int64_t below = (std::clamp<int64_t>(frames, 1, kMaxFrames) - 1) / kTemporalStride * kTemporalStride + 1;
  fail(SLA2_E_ARGUMENT, "frames: expected 4k+1 (1, 5, 9, 13 ...) up to {}, got {}; use {}", kMaxFrames, frames,
       outside ? fmt::format("{}", below) : fmt::format("{} or {}", below, below + kTemporalStride));
}

void check_tokens(const Latent& latent, size_t token_values) {
  SLA2_CHECK(latent.channels > 0 && latent.frames > 0 && latent.height > 0 && latent.width > 0 && latent.height % kPatch == 0 &&
                 latent.width % kPatch == 0,
             SLA2_E_ARGUMENT, "latent: expected positive sizes with even height and width, got [{}, {}, {}, {}]", latent.channels,
             latent.frames, latent.height, latent.width);
  SLA2_CHECK(static_cast<int64_t>(token_values) == latent.size(), SLA2_E_ARGUMENT,
             "tokens of a [{}, {}, {}, {}] latent: expected {} values, got {}", latent.channels, latent.frames, latent.height,
             latent.width, latent.size(), token_values);
}

/// Calls visit(latent index, token, channel, place in the patch = ph*2+pw) for every element, tokens in t, h, w order.
template <typename Visit>
void for_each_element(const Latent& latent, const Visit& visit) {
  const int64_t rows = latent.height / kPatch, columns = latent.width / kPatch;
  parallel_for(latent.frames * rows, [&](int64_t frame_row, int) {
    const int64_t frame = frame_row / rows, row = frame_row % rows;
    for (int64_t c = 0; c < latent.channels; ++c) {
      for (int64_t ph = 0; ph < kPatch; ++ph) {
        const int64_t line = ((c * latent.frames + frame) * latent.height + row * kPatch + ph) * latent.width;
        for (int64_t x = 0; x < latent.width; ++x) {
          visit(line + x, frame_row * columns + x / kPatch, c, ph * kPatch + x % kPatch);
        }
      }
    }
  });
}

}  // namespace

Latent shape_for_video(int64_t channels, int64_t frames, int64_t height, int64_t width) {
  SLA2_CHECK(channels > 0, SLA2_E_ARGUMENT, "latent channels: expected a positive number, got {}", channels);
  check_frames(frames);
  check_pixels("height", height);
  check_pixels("width", width);
  Latent latent;
  latent.channels = channels;
  latent.frames = (frames - 1) / kTemporalStride + 1;
  latent.height = height / kSpatialStride;
  latent.width = width / kSpatialStride;
  return latent;
}

Grid grid_of(const Latent& latent) { return {latent.frames, latent.height / kPatch, latent.width / kPatch}; }

void patchify(const Latent& latent, std::span<float> tokens) {
  check_tokens(latent, tokens.size());
  SLA2_CHECK(static_cast<int64_t>(latent.values.size()) == latent.size(), SLA2_E_ARGUMENT,
             "latent values: expected {} for its sizes, got {}", latent.size(), latent.values.size());
  const int64_t token_values = latent.channels * kPatch * kPatch;
  for_each_element(latent, [&](int64_t at, int64_t token, int64_t c, int64_t place) {
    tokens[token * token_values + c * kPatch * kPatch + place] = latent.values[at];  // (c, pt, ph, pw)
  });
}

void unpatchify(std::span<const float> tokens, Latent& latent) {
  check_tokens(latent, tokens.size());
  latent.values.resize(latent.size());
  const int64_t token_values = latent.channels * kPatch * kPatch;
  for_each_element(latent, [&](int64_t at, int64_t token, int64_t c, int64_t place) {
    latent.values[at] = tokens[token * token_values + place * latent.channels + c];  // (pt, ph, pw, c)
  });
}

}  // namespace sla2::latent
