// SPDX-License-Identifier: Apache-2.0
// Latent x0 [C,F',h,w] to rough RGB [F',h,w,3]: rgb = (sum_c z_c * factor_c + bias + 1) / 2.
#include <algorithm>
#include <array>
#include <cmath>
#include <span>

#include "video/video.h"

namespace sla2::video {

namespace {

constexpr int64_t kColors = 3;
constexpr int64_t kWanChannels = 16;

/// Published fit for the Wan2.1 VAE (ComfyUI, latent_formats.py: Wan21): R, G, B per channel, then the bias.
constexpr std::array<float, kWanChannels * kColors + kColors> kWanFactors{
    -0.1299F, -0.1692F, 0.2932F, 0.0671F,  0.0406F,  0.0442F,  0.3568F,  0.2548F,  0.1747F, 0.0372F,  0.2344F,  0.1420F,  0.0313F,
    0.0189F,  -0.0328F, 0.0296F, -0.0956F, -0.0665F, -0.3477F, -0.4059F, -0.2925F, 0.0166F, 0.1902F,  0.1975F,  -0.0412F, 0.0267F,
    -0.1364F, -0.1293F, 0.0740F, 0.1636F,  0.0680F,  0.3019F,  0.1128F,  0.0032F,  0.0581F, 0.0639F,  -0.1251F, 0.0927F,  0.1699F,
    0.0060F,  -0.0633F, 0.0005F, 0.3477F,  0.2275F,  0.2950F,  0.1984F,  0.0913F,  0.1861F, -0.1835F, -0.0868F, -0.3360F};

/// Without published factors: channel c lightens colour c mod 3, at a scale that keeps unit-variance latents in range.
std::vector<float> neutral_factors(int64_t channels) {
  std::vector<float> factors(static_cast<size_t>(channels * kColors + kColors), 0.0F);
  const float scale = 1.0F / std::sqrt(static_cast<float>(channels));
  for (int64_t c = 0; c < channels; ++c) factors[static_cast<size_t>(c * kColors + c % kColors)] = scale;
  return factors;
}

uint8_t unit_to_byte(float unit) {
  if (!(unit > 0.0F)) return 0;  // also NaN: a preview never stops a run
  return static_cast<uint8_t>(std::min(unit, 1.0F) * 255.0F + 0.5F);
}

}  // namespace

void preview_rgb(const latent::Latent& x0, const std::vector<float>& factors, std::vector<uint8_t>& rgb) {
  const auto wanted = static_cast<size_t>(x0.channels * kColors + kColors);
  SLA2_CHECK(factors.empty() || factors.size() == wanted, SLA2_E_ARGUMENT,
             "latent_rgb_factors: {} values given, a latent of {} channels needs {} (R, G, B per channel, then the bias)",
             factors.size(), x0.channels, wanted);
  std::vector<float> neutral;
  std::span<const float> table = factors;
  if (factors.empty()) {
    if (x0.channels == kWanChannels) {
      table = kWanFactors;
    } else {
      neutral = neutral_factors(x0.channels);
      table = neutral;
    }
  }
  const int64_t plane = x0.frames * x0.height * x0.width;  // [C, plane]
  rgb.resize(static_cast<size_t>(plane * kColors));
  for (int64_t p = 0; p < plane; ++p)
    for (int64_t color = 0; color < kColors; ++color) {
      float sum = table[static_cast<size_t>(x0.channels * kColors + color)];
      for (int64_t c = 0; c < x0.channels; ++c)
        sum += x0.values[static_cast<size_t>(c * plane + p)] * table[static_cast<size_t>(c * kColors + color)];
      rgb[static_cast<size_t>(p * kColors + color)] = unit_to_byte((sum + 1.0F) / 2.0F);
    }
}

}  // namespace sla2::video
