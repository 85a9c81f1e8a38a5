// SPDX-License-Identifier: Apache-2.0
#include "pipeline/decode_choice.h"

#include <algorithm>

#include "pipeline/device_choice.h"

namespace sla2::pipeline {

namespace {

/// `first`, then ever smaller tiles.
std::vector<int64_t> tiles_from(const Settings& settings, int64_t first) {
  std::vector<int64_t> tiles{first};
  for (const int64_t tile : kTiles)
    if (tile < std::max(settings.width, settings.height) && (first == 0 || tile < first)) tiles.push_back(tile);
  return tiles;
}

std::string words(int64_t tile) {
  return tile == 0 ? "decoding whole frames on the GPU" : fmt::format("decoding in tiles of {} px on the GPU", tile);
}

/// The first of `tiles` that fits.
DecodePlan plan_tiles(const ModelParts& model, const Settings& settings, std::span<const int64_t> tiles) {
  DecodePlan plan;
  plan.free_bytes = settings.gpu->memory().free;
  const uint64_t usable = usable_bytes(plan.free_bytes);
  for (const int64_t tile : tiles) {
    const vae::PlanSummary needed =
        vae::plan_decode_on(model.vae_config, settings.shape, decode_options(settings.vae_precision, tile));
    const uint64_t bytes = needed.weight_bytes + needed.activation_bytes;
    if (bytes > usable) {
      plan.notes.push_back(fmt::format("{}: not {}: that needs {:.0f} MiB and {:.0f} MiB of {:.0f} MiB free may be used",
                                       settings.gpu->info().name, words(tile), mebi(bytes), mebi(usable), mebi(plan.free_bytes)));
      continue;
    }
    plan.on_gpu = true;
    plan.tile = tile;
    plan.planned_bytes = bytes;
    plan.pinned_bytes = needed.pinned_bytes;
    plan.text = needed.text;
    if (tile != settings.vae_tile)
      plan.notes.push_back(fmt::format("decoding in tiles of {} px on the GPU; tiles are blended, not exact", tile));
    return plan;
  }
  plan.notes.emplace_back("the VAE decodes on the CPU");
  return plan;
}

}  // namespace

std::string decode_where(const DecodePlan& plan) {
  if (!plan.on_gpu) return plan.tile == 0 ? "the CPU" : fmt::format("the CPU in tiles of {} px", plan.tile);
  return plan.tile == 0 ? "whole frames on the GPU" : fmt::format("tiles of {} px on the GPU", plan.tile);
}

vae::DecodeOptions decode_options(vae::Precision precision, int64_t tile) {
  vae::DecodeOptions options;
  options.precision = precision;
  options.tile = tile;
  if (tile > 0) options.tile_overlap = std::min(options.tile_overlap, tile / 2);
  return options;
}

DecodePlan plan_gpu_decode(const ModelParts& model, const Settings& settings) {
  if (settings.gpu == nullptr) return {};
  try {
    return plan_tiles(model, settings, tiles_from(settings, settings.vae_tile));
  } catch (const Error& error) {
    if (error.status() != SLA2_E_UNSUPPORTED) throw;
    DecodePlan plan;
    plan.notes.push_back(fmt::format("the VAE decodes on the CPU: {}", error.what()));
    return plan;
  }
}

std::optional<DecodePlan> next_decode(const ModelParts& model, const Settings& settings, const DecodePlan& from,
                                      int64_t cpu_tile) {
  const std::vector<int64_t> tiles = tiles_from(settings, from.tile);
  const std::span<const int64_t> smaller = std::span(tiles).subspan(1);
  DecodePlan next;
  if (from.on_gpu) {
    next = plan_tiles(model, settings, smaller);
    if (!next.on_gpu) next.tile = cpu_tile;
  } else {
    if (smaller.empty()) return std::nullopt;
    next.tile = smaller.front();
  }
  return next;
}

}  // namespace sla2::pipeline
