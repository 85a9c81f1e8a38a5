// SPDX-License-Identifier: Apache-2.0
// Memory preflight. Phases follow each other and free what they used: text encoder, then DiT, then VAE; so the job needs
// the largest of three sums, not their total.
#include "pipeline/preflight.h"

#include <algorithm>

namespace sla2::pipeline {

namespace {

/// fp32 latents alive while sampling: x, two velocities, x before the step, three vectors of solver history.
constexpr uint64_t kLatentsAlive = 7;

uint64_t latent_bytes(const Settings& settings) { return static_cast<uint64_t>(settings.shape.size()) * sizeof(float); }

/// Sampling: weights, prompt constants (twice with guidance), activations, latents.
uint64_t sampling_bytes(const ModelParts& model, const Settings& settings, const latent::Grid& grid, uint64_t one_latent,
                        int64_t tokens, std::string* text) {
  dit::Options options;
  options.precision = settings.precision;
  options.linear_bits = settings.linear_bits;
  options.pack = settings.attention.pack;
  const auto kinds = attention_kinds(settings.attention, settings.steps(), model.dit_config.layers);
  const dit::PlanSummary plan = dit::plan(model.dit_config, grid, tokens, options, kinds, dit::stored_type(*model.dit));
  const uint64_t prompts = plan.prompt_bytes * (settings.guided() ? 2 : 1);
  const uint64_t latents = one_latent * kLatentsAlive;
  if (text != nullptr) {
    *text += plan.text;
    if (!plan.text.empty() && plan.text.back() != '\n') *text += '\n';
    *text += fmt::format("latents and solver history: {:.1f} MiB\n", mebi(latents));
  }
  return plan.weight_bytes + prompts + plan.activation_bytes + latents;
}

/// Of this machine; `on_gpu` null: the CPU decodes.
uint64_t decoding_bytes(const ModelParts& model, const Settings& settings, int64_t tile, const DecodePlan* on_gpu,
                        std::string* text) {
  vae::PlanSummary plan;
  if (on_gpu == nullptr) {
    plan = vae::plan_decode(model.vae_config, settings.shape.height, settings.shape.width,
                            decode_options(settings.vae_precision, tile));
  } else {
    plan.activation_bytes = on_gpu->pinned_bytes;
    plan.text =
        fmt::format("{}: {:.1f} MiB of {:.1f} MiB free\n{}pinned memory of this machine: {:.1f} MiB\n", decode_where(*on_gpu),
                    mebi(on_gpu->planned_bytes), mebi(on_gpu->free_bytes), on_gpu->text, mebi(on_gpu->pinned_bytes));
  }
  const auto frame_pixels = static_cast<uint64_t>(settings.width * settings.height);
  constexpr uint64_t kChannels = 3, kFramesAtOnce = 4;
  const uint64_t rgb = frame_pixels * kChannels * kFramesAtOnce;
  // Tiles cannot stream: every tile runs through time alone, so the blended clip is held whole (fp32).
  const bool tiled = tile > 0 && tile < std::max(settings.width, settings.height);
  const uint64_t clip = tiled ? frame_pixels * kChannels * sizeof(float) * static_cast<uint64_t>(settings.frames) : 0;
  if (text != nullptr) {
    *text += plan.text;
    if (!plan.text.empty() && plan.text.back() != '\n') *text += '\n';
    *text += fmt::format("latent and RGB frames: {:.1f} MiB\n", mebi(latent_bytes(settings) + rgb));
    if (clip > 0) *text += fmt::format("blended clip of the tiles: {:.1f} MiB\n", mebi(clip));
  }
  return plan.weight_bytes + plan.activation_bytes + latent_bytes(settings) + rgb + clip;
}

/// The largest clip of the same shape that would fit while sampling: fewer frames first, then half the sides.
std::string sampling_remedy(const ModelParts& model, const Settings& settings, int64_t tokens, uint64_t limit) {
  constexpr int64_t kFramesPerLatent = 4;
  const uint64_t per_frame = latent_bytes(settings) / static_cast<uint64_t>(settings.shape.frames);
  const auto fits = [&](latent::Grid grid, int64_t area_divisor) {
    const uint64_t latent = per_frame / static_cast<uint64_t>(area_divisor) * static_cast<uint64_t>(grid.frames);
    return sampling_bytes(model, settings, grid, latent, tokens, nullptr) <= limit;
  };
  latent::Grid grid = settings.grid;
  while (grid.frames > 1 && !fits(grid, 1)) --grid.frames;
  if (grid.frames < settings.grid.frames && fits(grid, 1)) {
    return fmt::format("frames = {} would fit", (grid.frames - 1) * kFramesPerLatent + 1);
  }
  constexpr int64_t kSides = 2;  // halve both sides
  grid = {settings.grid.frames, std::max<int64_t>(1, settings.grid.height / kSides),
          std::max<int64_t>(1, settings.grid.width / kSides)};
  if (fits(grid, kSides * kSides)) {
    constexpr int64_t kPixelsPerToken = 16;
    return fmt::format("width = {}, height = {} would fit", grid.width * kPixelsPerToken, grid.height * kPixelsPerToken);
  }
  return "the weights alone need most of it: use linear_bits = 8, a smaller model, or weights stored as bf16 or fp8";
}

}  // namespace

uint64_t MemoryPlanSummary::peak_bytes() const noexcept { return std::max({text_bytes, sample_bytes, decode_bytes}); }

MemoryPlanSummary check_memory(const ModelParts& model, const Settings& settings, int64_t tokens) {
  MemoryPlanSummary plan;
  const uint64_t available = available_memory_bytes();
  plan.limit_bytes = settings.memory_limit != 0 ? settings.memory_limit : available;
  plan.vae_tile = settings.vae_tile;

  std::string sample_text, decode_text;
  plan.gpu = plan_gpu(model, settings, tokens);
  plan.notes = plan.gpu.notes;
  plan.text_encoder = plan_text(model, settings, tokens, plan.gpu, plan.limit_bytes);
  plan.notes.insert(plan.notes.end(), plan.text_encoder.notes.begin(), plan.text_encoder.notes.end());
  plan.text_bytes = plan.text_encoder.host_bytes;
  std::string encoder_text;
  if (plan.text_encoder.on_gpu)
    encoder_text = fmt::format("{}: {}, {:.1f} MiB of {:.1f} MiB free\n{}\n", settings.gpu->info().name, text_where(true),
                               mebi(plan.text_encoder.planned_bytes), mebi(plan.text_encoder.free_bytes), plan.text_encoder.text);
  if (plan.gpu.rung == Rung::kCpu) {
    plan.sample_bytes = sampling_bytes(model, settings, settings.grid, latent_bytes(settings), tokens, &sample_text);
  } else {
    plan.sample_bytes = plan.gpu.pinned_bytes + latent_bytes(settings) * kLatentsAlive;
    sample_text = fmt::format("{}: {}, {:.1f} MiB of {:.1f} MiB free\n{}\npinned memory of this machine: {:.1f} MiB\n",
                              settings.gpu->info().name, rung_text(plan.gpu.rung), mebi(plan.gpu.planned_bytes),
                              mebi(plan.gpu.free_bytes), plan.gpu.text, mebi(plan.gpu.pinned_bytes));
  }
  const bool left_to_the_cpu = plan.gpu.rung == Rung::kCpu && settings.values.text("device") == "auto";
  if (!left_to_the_cpu) plan.decode = plan_gpu_decode(model, settings);
  plan.notes.insert(plan.notes.end(), plan.decode.notes.begin(), plan.decode.notes.end());
  plan.decode_bytes = decoding_bytes(model, settings, plan.vae_tile, nullptr, &decode_text);
  if (plan.decode_bytes > plan.limit_bytes && plan.vae_tile == 0) {
    for (const int64_t tile : kTiles) {
      if (tile >= std::max(settings.width, settings.height)) continue;
      std::string tiled_text;
      const uint64_t bytes = decoding_bytes(model, settings, tile, nullptr, &tiled_text);
      if (bytes > plan.limit_bytes) continue;
      if (!plan.decode.on_gpu)
        plan.notes.push_back(
            fmt::format("decoding in tiles of {} px: whole frames need {:.0f} MiB of {:.0f} MiB; tiles are blended, not exact",
                        tile, mebi(plan.decode_bytes), mebi(plan.limit_bytes)));
      plan.vae_tile = tile;
      plan.decode_bytes = bytes;
      decode_text = tiled_text;
      break;
    }
  }
  if (plan.decode.on_gpu) {
    decode_text.clear();
    plan.decode_bytes = decoding_bytes(model, settings, plan.decode.tile, &plan.decode, &decode_text);
  } else {
    plan.decode.tile = plan.vae_tile;
  }
  plan.text = fmt::format(
      "text encoding: {:.1f} MiB at its peak\n{}\nsampling: {:.1f} MiB\n{}\ndecoding: {:.1f} MiB\n{}\npeak: {:.1f} MiB of "
      "{:.1f} MiB{}\n",
      mebi(plan.text_bytes), encoder_text, mebi(plan.sample_bytes), sample_text, mebi(plan.decode_bytes), decode_text,
      mebi(plan.peak_bytes()), mebi(plan.limit_bytes), settings.memory_limit != 0 ? " (memory_limit)" : " available");
  if (plan.peak_bytes() <= plan.limit_bytes) return plan;

  std::string remedies;
  const auto add = [&](const std::string& remedy) { remedies += (remedies.empty() ? "" : "; ") + remedy; };
  if (plan.sample_bytes > plan.limit_bytes) add(sampling_remedy(model, settings, tokens, plan.limit_bytes));
  if (plan.decode_bytes > plan.limit_bytes) add("a smaller width and height, or a smaller vae_tile, makes decoding fit");
  if (plan.text_bytes > plan.limit_bytes) add("a shorter prompt makes text encoding fit");
  if (settings.memory_limit != 0 && plan.peak_bytes() <= available) {
    add(fmt::format("memory_limit = {:.0f} would do, {:.0f} MB are available", mebi(plan.peak_bytes()) + 1, mebi(available)));
  }
  fail(SLA2_E_MEMORY, "the job needs {:.0f} MiB and has {:.0f} MiB{}: {}.\nThe plan:\n{}", mebi(plan.peak_bytes()),
       mebi(plan.limit_bytes), settings.memory_limit != 0 ? " (memory_limit)" : "", remedies, plan.text);
}

}  // namespace sla2::pipeline
