// SPDX-License-Identifier: Apache-2.0
// Latent [z,F',h,w] -> statistics -> network -> clamp to [-1,1] -> chunks of 1, then 4, 4, ... frames [count,3,H,W]. Sums, norms
// and frames are fp32, products fp32 or bf16.
#include <algorithm>

#include "vae/network.h"
#include "vae/tiled_decoder.h"

namespace sla2::vae {

namespace {

class WanDecoder final : public TiledDecoder {
 public:
  WanDecoder(const config::VaeConfig& config, const WeightReader& reader, bool bf16)
      : TiledDecoder(config), network_(decoder_blocks(config), reader), bf16_(bf16) {}
  [[nodiscard]] std::string_view products() const noexcept override {
    if (!bf16_) return "fp32";
    return network_.format().narrow() ? "bf16" : "fp32 products of weights rounded to bf16";
  }

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
  bool bf16_;
};

}  // namespace

Precision decode_precision(Precision asked) {
  if (asked != Precision::kAuto) return asked;
  return has_fast_bf16() ? Precision::kBf16 : Precision::kF32;
}

std::unique_ptr<Decoder> Decoder::load(const weights::Checkpoint& checkpoint, Precision precision) {
  const config::VaeConfig config = config::read_vae_config(checkpoint);
  const bool bf16 = decode_precision(precision) == Precision::kBf16;
  auto decoder = std::make_unique<WanDecoder>(config, WeightReader::from(checkpoint, bf16), bf16);
  log(SLA2_LOG_INFO, "VAE decoder on the CPU: {}", decoder->products());
  return decoder;
}

}  // namespace sla2::vae
