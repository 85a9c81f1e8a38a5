// SPDX-License-Identifier: Apache-2.0
// What a model refuses, and the order of its tokens: the same wherever it runs.
#include <algorithm>

#include "dit/model.h"

namespace sla2::dit {

namespace {

constexpr int64_t kTile = 4;  // of token order "tiles": 64 tokens, one block of keys

}  // namespace

void check_model(const config::DitConfig& c, const Loader& loader, const Options& options) {
  const std::string& path = loader.checkpoint().path();
  SLA2_CHECK(options.token_chunk >= 0, SLA2_E_ARGUMENT, "token_chunk is {}, expected at least 1, or 0 for the default",
             options.token_chunk);
  SLA2_CHECK(options.pack == nullptr || static_cast<int64_t>(options.pack->layers.size()) == c.layers, SLA2_E_MODEL_MISMATCH,
             "{}: a router pack of {} layers, the model has {}", path, options.pack->layers.size(), c.layers);
  SLA2_CHECK(!c.image_branch, SLA2_E_UNSUPPORTED, "{}: an image-to-video model; this version runs text-to-video models only",
             path);
  loader.check_complete(c);
}

void check_grid(const config::DitConfig& c, const latent::Grid& grid) {
  SLA2_CHECK(grid.tokens() > 0, SLA2_E_ARGUMENT, "grid {} x {} x {} has no tokens", grid.frames, grid.height, grid.width);
  SLA2_CHECK(std::max({grid.frames, grid.height, grid.width}) <= c.rope_max, SLA2_E_UNSUPPORTED,
             "grid {} x {} x {}: this model knows {} positions an axis; make a smaller or shorter clip", grid.frames, grid.height,
             grid.width, c.rope_max);
}

void check_call(const config::DitConfig& c, const latent::Grid& grid, const Options& options, const latent::Latent& x,
                std::span<const LayerAttention> policy) {
  SLA2_CHECK(grid.tokens() > 0, SLA2_E_STATE, "diffusion model: set_grid comes before forward");
  SLA2_CHECK(x.channels == c.in_channels && static_cast<int64_t>(x.values.size()) == x.size(), SLA2_E_ARGUMENT,
             "diffusion model: latent of {} channels and {} values, expected {} channels", x.channels, x.values.size(),
             c.in_channels);
  SLA2_CHECK(x.frames == grid.frames && x.height == 2 * grid.height && x.width == 2 * grid.width, SLA2_E_ARGUMENT,
             "diffusion model: latent {} x {} x {}, but the grid set is {} x {} x {} patches of 1 x 2 x 2", x.frames, x.height,
             x.width, grid.frames, grid.height, grid.width);
  SLA2_CHECK(policy.empty() || static_cast<int64_t>(policy.size()) == c.layers, SLA2_E_ARGUMENT,
             "diffusion model: attention policy for {} layers, the model has {}", policy.size(), c.layers);
  for (const LayerAttention& layer : policy)
    SLA2_CHECK(!layer.learned || options.pack != nullptr, SLA2_E_ARGUMENT,
               "diffusion model: a layer asks for what was learned, and no router pack was loaded");
}

void check_prompt(const config::DitConfig& c, int64_t dim, int64_t layers) {
  SLA2_CHECK(dim == c.dim && layers == c.layers, SLA2_E_ARGUMENT, "diffusion model: this prompt was prepared for another model");
}

TokenPlaces token_places(attention::Order order, const latent::Grid& grid) {
  TokenPlaces places;
  if (order == attention::Order::kRaster) return places;
  const attention::Box box{grid.frames, grid.height, grid.width}, tile{kTile, kTile, kTile};
  places.order.resize(static_cast<size_t>(grid.tokens()));
  places.place.resize(places.order.size());
  attention::token_order(order, box, tile, places.order.data());
  attention::invert_order(places.order.data(), grid.tokens(), places.place.data());
  return places;
}

}  // namespace sla2::dit
