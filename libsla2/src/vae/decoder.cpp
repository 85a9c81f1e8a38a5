// SPDX-License-Identifier: Apache-2.0
// Latent [z,F',h,w] -> statistics -> network -> clamp to [-1,1] -> chunks of 1, then 4, 4, ... frames [count,3,H,W]. fp32.
#include <algorithm>
#include <utility>

#include "vae/network.h"
#include "vae/tiling.h"
#include "vae/vae.h"

namespace sla2::vae {

namespace {

class WanDecoder final : public Decoder {
 public:
  WanDecoder(config::VaeConfig config, const WeightReader& reader)
      : config_(std::move(config)), network_(decoder_blocks(config_), reader) {}

  void decode(const latent::Latent& latent, const DecodeOptions& options, const CancelToken& cancel,
              const std::function<void(const FrameChunk&)>& on_frames) override {
    check(latent);
    const std::vector<float> values = with_statistics(latent);
    const TileGrid grid(latent.height, latent.width, spatial_factor(config_), options.tile, options.tile_overlap);
    if (grid.count() == 1) {
      decode_area(values, latent, {0, 0, latent.height, latent.width}, cancel, on_frames);
      return;
    }
    log(SLA2_LOG_INFO, "VAE: decoding in {} tiles; the result is an approximation of the untiled one", grid.count());
    TileBlender blender(grid, 1 + (latent.frames - 1) * temporal_factor(config_));
    for (int64_t i = 0; i < grid.count(); ++i)
      decode_area(values, latent, grid.area(i), cancel, [&](const FrameChunk& chunk) { blender.add(i, chunk); });
    blender.emit(temporal_factor(config_), on_frames);
  }

  const config::VaeConfig& config() const noexcept override { return config_; }

 private:
  void check(const latent::Latent& latent) const {
    SLA2_CHECK(latent.channels == config_.z_dim, SLA2_E_MODEL_MISMATCH,
               "this VAE decodes latents of {} channels, got one of {}: use the VAE that belongs to the model", config_.z_dim,
               latent.channels);
    SLA2_CHECK(
        latent.frames > 0 && latent.height > 0 && latent.width > 0 && latent.values.size() == static_cast<size_t>(latent.size()),
        SLA2_E_ARGUMENT, "latent of {}x{}x{}x{} with {} values: sizes must be positive and match", latent.channels, latent.frames,
        latent.height, latent.width, latent.values.size());
  }

  std::vector<float> with_statistics(const latent::Latent& latent) const {
    std::vector<float> values(latent.values.size());
    const size_t plane = values.size() / static_cast<size_t>(latent.channels);
    for (size_t i = 0; i < values.size(); ++i)
      values[i] = latent.values[i] * config_.latents_std[i / plane] + config_.latents_mean[i / plane];
    return values;
  }

  void decode_area(const std::vector<float>& values, const latent::Latent& latent, const TileArea& area,
                   const CancelToken& cancel, const std::function<void(const FrameChunk&)>& on_frames) const {
    Stream stream(network_, area.height, area.width);
    const int64_t factor = spatial_factor(config_), plane = latent.height * latent.width;
    FrameChunk chunk{0, 0, area.height * factor, area.width * factor, nullptr};
    const int64_t pixels = chunk.height * chunk.width;
    std::vector<float> frames(static_cast<size_t>(temporal_factor(config_) * kVideoChannels * pixels));
    std::vector<float> crop(static_cast<size_t>(latent.channels * area.height * area.width));
    for (int64_t t = 0; t < latent.frames; ++t) {
      cancel.check();
      for (int64_t c = 0; c < latent.channels; ++c)
        for (int64_t y = 0; y < area.height; ++y)
          std::copy_n(values.data() + (c * latent.frames + t) * plane + (area.y + y) * latent.width + area.x, area.width,
                      crop.data() + (c * area.height + y) * area.width);
      chunk.count = 0;
      stream.push(crop.data(), area.height * area.width, [&](const kernels::FrameShape& shape, const float* frame) {
        cancel.check();
        kernels::frame_to_planar_clamped(shape, frame, -1.0F, 1.0F, frames.data() + chunk.count * kVideoChannels * pixels,
                                         pixels);
        ++chunk.count;
      });
      chunk.values = frames.data();
      on_frames(chunk);
      chunk.first += chunk.count;
    }
  }

  config::VaeConfig config_;
  Network network_;
};

}  // namespace

std::unique_ptr<Decoder> Decoder::load(const weights::Checkpoint& checkpoint, Precision precision) {
  config::VaeConfig config = config::read_vae_config(checkpoint);
  log(SLA2_LOG_INFO, "VAE decoder: {}",
      precision != Precision::kBf16 ? "fp32 products"
      : has_fast_bf16()             ? "bf16 products"
                                    : "fp32 products of weights rounded to bf16");
  return std::make_unique<WanDecoder>(std::move(config), WeightReader::from(checkpoint, precision == Precision::kBf16));
}

}  // namespace sla2::vae
