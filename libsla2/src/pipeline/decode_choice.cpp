// SPDX-License-Identifier: Apache-2.0
#include "pipeline/decode_choice.h"

#include <algorithm>

#include "pipeline/device_choice.h"

namespace sla2::pipeline {

namespace {

/// What was asked for, then ever smaller tiles.
std::vector<int64_t> tiles_of(const Settings& settings) {
  std::vector<int64_t> tiles{settings.vae_tile};
  for (const int64_t tile : kTiles)
    if (tile < std::max(settings.width, settings.height) && (settings.vae_tile == 0 || tile < settings.vae_tile))
      tiles.push_back(tile);
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
    vae::DecodeOptions options;
    options.precision = settings.vae_precision;
    options.tile = tile;
    const vae::PlanSummary needed = vae::plan_decode_on(model.vae_config, settings.shape, options);
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
  if (!plan.on_gpu) return "the CPU";
  return plan.tile == 0 ? "whole frames on the GPU" : fmt::format("tiles of {} px on the GPU", plan.tile);
}

DecodePlan plan_gpu_decode(const ModelParts& model, const Settings& settings) {
  if (settings.gpu == nullptr) return {};
  try {
    return plan_tiles(model, settings, tiles_of(settings));
  } catch (const Error& error) {
    if (error.status() != SLA2_E_UNSUPPORTED) throw;
    DecodePlan plan;
    plan.notes.push_back(fmt::format("the VAE decodes on the CPU: {}", error.what()));
    return plan;
  }
}

DecodePlan next_decode(const ModelParts& model, const Settings& settings, const DecodePlan& from) {
  const std::vector<int64_t> tiles = tiles_of(settings);
  const auto at = std::find(tiles.begin(), tiles.end(), from.tile);
  return plan_tiles(model, settings, {at == tiles.end() ? at : at + 1, tiles.end()});
}

}  // namespace sla2::pipeline
