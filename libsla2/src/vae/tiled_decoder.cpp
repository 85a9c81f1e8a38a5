// SPDX-License-Identifier: Apache-2.0
#include "vae/tiled_decoder.h"

#include "vae/blocks.h"

namespace sla2::vae {

namespace {

void check(const config::VaeConfig& config, const latent::Latent& latent) {
  SLA2_CHECK(latent.channels == config.z_dim, SLA2_E_MODEL_MISMATCH,
             "this VAE decodes latents of {} channels, got one of {}: use the VAE that belongs to the model", config.z_dim,
             latent.channels);
  SLA2_CHECK(
      latent.frames > 0 && latent.height > 0 && latent.width > 0 && latent.values.size() == static_cast<size_t>(latent.size()),
      SLA2_E_ARGUMENT, "latent of {}x{}x{}x{} with {} values: sizes must be positive and match", latent.channels, latent.frames,
      latent.height, latent.width, latent.values.size());
}

latent::Latent with_statistics(const config::VaeConfig& config, const latent::Latent& latent) {
  latent::Latent y = latent;
  const size_t plane = y.values.size() / static_cast<size_t>(latent.channels);
  for (size_t i = 0; i < y.values.size(); ++i)
    y.values[i] = latent.values[i] * config.latents_std[i / plane] + config.latents_mean[i / plane];
  return y;
}

}  // namespace

void TiledDecoder::decode(const latent::Latent& latent, const DecodeOptions& options, const CancelToken& cancel,
                          const std::function<void(const FrameChunk&)>& on_frames) {
  check(config_, latent);
  const latent::Latent values = with_statistics(config_, latent);
  const TileGrid grid(latent.height, latent.width, spatial_factor(config_), options.tile, options.tile_overlap);
  if (grid.count() == 1) {
    decode_area(values, {0, 0, latent.height, latent.width}, cancel, on_frames);
    return;
  }
  log(SLA2_LOG_INFO, "VAE: decoding in {} tiles; the result is an approximation of the untiled one", grid.count());
  TileBlender blender(grid, 1 + (latent.frames - 1) * temporal_factor(config_));
  for (int64_t i = 0; i < grid.count(); ++i)
    decode_area(values, grid.area(i), cancel, [&](const FrameChunk& chunk) { blender.add(i, chunk); });
  blender.emit(temporal_factor(config_), on_frames);
}

}  // namespace sla2::vae
