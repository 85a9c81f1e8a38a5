// SPDX-License-Identifier: Apache-2.0
// Latent [z,F',h,w] -> statistics -> network -> clamp to [-1,1] -> chunks of 1, then 4, 4, ... frames [count,3,H,W]. fp32.
#include <algorithm>

#include "vae/network.h"
#include "vae/tiled_decoder.h"

namespace sla2::vae {

namespace {

class WanDecoder final : public TiledDecoder {
 public:
  WanDecoder(const config::VaeConfig& config, const WeightReader& reader)
      : TiledDecoder(config), network_(decoder_blocks(config), reader) {}

 private:
  void decode_area(const latent::Latent& latent, const TileArea& area, const CancelToken& cancel,
                   const Sink& on_frames) override {
    Stream stream(network_, area.height, area.width);
    const int64_t factor = spatial_factor(config()), plane = latent.height * latent.width;
    FrameChunk chunk{0, 0, area.height * factor, area.width * factor, nullptr};
    const int64_t pixels = chunk.height * chunk.width;
    std::vector<float> frames(static_cast<size_t>(temporal_factor(config()) * kVideoChannels * pixels));
    std::vector<float> crop(static_cast<size_t>(latent.channels * area.height * area.width));
    for (int64_t t = 0; t < latent.frames; ++t) {
      cancel.check();
      for (int64_t c = 0; c < latent.channels; ++c)
        for (int64_t y = 0; y < area.height; ++y)
          std::copy_n(latent.values.data() + (c * latent.frames + t) * plane + (area.y + y) * latent.width + area.x, area.width,
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

  Network network_;
};

}  // namespace

std::unique_ptr<Decoder> Decoder::load(const weights::Checkpoint& checkpoint, Precision precision) {
  const config::VaeConfig config = config::read_vae_config(checkpoint);
  log(SLA2_LOG_INFO, "VAE decoder: {}",
      precision != Precision::kBf16 ? "fp32 products"
      : has_fast_bf16()             ? "bf16 products"
                                    : "fp32 products of weights rounded to bf16");
  return std::make_unique<WanDecoder>(config, WeightReader::from(checkpoint, precision == Precision::kBf16));
}

}  // namespace sla2::vae
