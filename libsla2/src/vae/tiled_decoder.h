// SPDX-License-Identifier: Apache-2.0
// What every decoder does around its network, wherever that runs: checks, statistics, tiles and their blending.
#pragma once
#include <vector>

#include "vae/tiling.h"
#include "vae/vae.h"

namespace sla2::vae {

class TiledDecoder : public Decoder {
 public:
  explicit TiledDecoder(config::VaeConfig config) : config_(std::move(config)) {}
  void decode(const latent::Latent& latent, const DecodeOptions& options, const CancelToken& cancel,
              const std::function<void(const FrameChunk&)>& on_frames) final;
  [[nodiscard]] const config::VaeConfig& config() const noexcept final { return config_; }

 protected:
  using Sink = std::function<void(const FrameChunk&)>;
  /// `latent` as the network takes it, its area alone: chunks of 1, then temporal_factor frames.
  virtual void decode_area(const latent::Latent& latent, const TileArea& area, const CancelToken& cancel,
                           const Sink& on_frames) = 0;

 private:
  config::VaeConfig config_;
};

}  // namespace sla2::vae
