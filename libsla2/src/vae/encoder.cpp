// SPDX-License-Identifier: Apache-2.0
// Video [3,F,H,W] in [-1,1] -> network, frame by frame -> mean half of the moments -> (mean - latents_mean) / latents_std. fp32.
#include <limits>
#include <utility>

#include "vae/network.h"
#include "vae/vae.h"

namespace sla2::vae {

namespace {

class WanEncoder final : public Encoder {
 public:
  WanEncoder(config::VaeConfig config, const WeightReader& reader)
      : config_(std::move(config)), network_(encoder_blocks(config_), reader) {}

  latent::Latent encode(const float* video, int64_t frames, int64_t height, int64_t width, const CancelToken& cancel) override {
    const int64_t space = spatial_factor(config_), time = temporal_factor(config_);
    SLA2_CHECK(frames > 0 && (frames - 1) % time == 0, SLA2_E_ARGUMENT,
               "cannot encode {} frames: the count must be {}k+1, such as {}", frames, time,
               frames < 1 ? 1 : (frames - 1) / time * time + 1);
    SLA2_CHECK(height > 0 && width > 0 && height % space == 0 && width % space == 0, SLA2_E_ARGUMENT,
               "cannot encode frames of {}x{}: width and height must be multiples of {}", width, height, space);
    latent::Latent latent{config_.z_dim, (frames - 1) / time + 1, height / space, width / space, {}};
    latent.values.resize(static_cast<size_t>(latent.size()));

    Stream stream(network_, height, width);
    const int64_t pixels = latent.height * latent.width;
    std::vector<float> moments(static_cast<size_t>(2 * config_.z_dim * pixels));
    int64_t done = 0;
    const auto store = [&](const kernels::FrameShape& shape, const float* frame) {
      constexpr float kAny = std::numeric_limits<float>::infinity();
      kernels::frame_to_planar_clamped(shape, frame, -kAny, kAny, moments.data(), pixels);
      for (int64_t c = 0; c < latent.channels; ++c)
        for (int64_t p = 0; p < pixels; ++p)
          latent.values[static_cast<size_t>((c * latent.frames + done) * pixels + p)] =
              (moments[static_cast<size_t>(c * pixels + p)] - config_.latents_mean[static_cast<size_t>(c)]) /
              config_.latents_std[static_cast<size_t>(c)];
      ++done;
    };
    for (int64_t t = 0; t < frames; ++t) {
      cancel.check();
      stream.push(video + t * height * width, frames * height * width, store);
    }
    SLA2_CHECK(done == latent.frames, SLA2_E_INTERNAL, "the VAE encoder gave {} latent frames for {} frames, expected {}", done,
               frames, latent.frames);
    return latent;
  }

 private:
  config::VaeConfig config_;
  Network network_;
};

}  // namespace

std::unique_ptr<Encoder> Encoder::load(const weights::Checkpoint& checkpoint, Precision precision) {
  config::VaeConfig config = config::read_vae_config(checkpoint);
  return std::make_unique<WanEncoder>(std::move(config), WeightReader::from(checkpoint, precision == Precision::kBf16));
}

}  // namespace sla2::vae
