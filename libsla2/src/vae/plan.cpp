// SPDX-License-Identifier: Apache-2.0
// Memory of a decode, from the configuration alone: the same block list and the same sizes the decoder will use.
#include <algorithm>

#include "vae/network.h"
#include "vae/tiling.h"
#include "vae/vae.h"

namespace sla2::vae {

PlanSummary plan_decode(const config::VaeConfig& config, int64_t latent_height, int64_t latent_width,
                        const DecodeOptions& options) {
  const std::vector<BlockSpec> blocks = decoder_blocks(config);
  const int64_t factor = spatial_factor(config);
  const Format format = Format::of(decode_precision(options.precision) == Precision::kBf16);
  const TileGrid grid(latent_height, latent_width, factor, options.tile, options.tile_overlap);
  const TileArea area = grid.area(0);  // the first tile is the largest
  const BlockCost total = total_cost(blocks, area.height, area.width, format);
  const int64_t pixels = area.height * area.width * factor * factor;
  const auto chunk_bytes = static_cast<uint64_t>(temporal_factor(config) * kVideoChannels * pixels) * sizeof(float);

  PlanSummary plan;
  plan.weight_bytes = total.weight_bytes;
  plan.activation_bytes = stream_bytes(total) + chunk_bytes;
  plan.text = fmt::format(
      "VAE decode, {} products, latent {}x{} in {} tile(s): weights {:.1f} MiB, causal caches {:.1f} MiB, frames in flight "
      "{:.1f} MiB, "
      "output chunk {:.1f} MiB\n",
      format.narrow() ? "bf16" : "fp32", latent_width, latent_height, grid.count(), mebi(total.weight_bytes),
      mebi(total.state_bytes), mebi(stream_bytes(total) - total.state_bytes), mebi(chunk_bytes));
  if (grid.count() > 1)
    plan.text += fmt::format("  and the blended clip: {:.2f} MiB per frame\n",
                             mebi(static_cast<uint64_t>(grid.height() * grid.width() * kVideoChannels) * sizeof(float)));
  return plan;
}

}  // namespace sla2::vae
