// SPDX-License-Identifier: Apache-2.0
// Resolve and cross-check a job's settings.
#include "pipeline/settings.h"

#include <algorithm>

#include "pipeline/device_choice.h"
#include "pipeline/loras.h"
#include "pipeline/router_pack.h"
#include "text/text.h"

namespace sla2::pipeline {

namespace {

constexpr uint64_t kMegabyte = 1024 * 1024;

dit::Precision dit_precision(const std::string& name) {
  if (name == "fp32") return dit::Precision::kF32;
  return name == "bf16" ? dit::Precision::kBf16 : dit::Precision::kAuto;
}

vae::Precision vae_precision(const std::string& name) {
  if (name == "fp32") return vae::Precision::kF32;
  return name == "bf16" ? vae::Precision::kBf16 : vae::Precision::kAuto;
}

std::string checked_prompt(const config::ParamSet& values, const char* name) {
  const std::string raw = values.text(name);
  SLA2_CHECK(text::is_valid_utf8(raw), SLA2_E_ARGUMENT, "{} is not valid UTF-8; save or type it as UTF-8 text", name);
  return text::clean_prompt(raw);
}

/// Distilled grids are fixed by training; what the user did not ask for then follows the grid instead of the base model.
void resolve_schedule(const ModelParts& model, const config::ParamSet& params, Settings& settings) {
  const config::ParamSet& values = settings.values;
  settings.solver = values.text("sampler");
  sampler::ScheduleSpec spec;
  spec.grid = values.text("schedule");
  if (spec.grid == "auto") spec.grid = std::string(sampler::default_grid(settings.solver));
  spec.sigmas = values.numbers("sigmas");

  constexpr int kStepsOfAnyGrid = 4;  // accepted by every grid, distilled ones included
  const bool distilled = sampler::make_schedule({spec.grid, kStepsOfAnyGrid, 1.0, {}}).cfg_forbidden;
  const bool grid_from_user = params.is_set("schedule") || params.is_set("sampler");
  const auto asked = [&](const char* name) { return params.is_set(name) || (!grid_from_user && model.defaults.is_set(name)); };
  spec.steps = !distilled || asked("steps") ? static_cast<int>(values.integer("steps")) : 0;
  spec.shift = !distilled || asked("shift") ? values.number("shift") : 1.0;
  if (distilled && !asked("shift")) settings.values.unset("shift");  // the base model's value does not belong to this grid
  settings.schedule = sampler::make_schedule(spec);
  static_cast<void>(sampler::Solver::create(settings.solver, settings.schedule));  // refuses a solver that does not fit the grid

  double scale = values.number("cfg_scale");
  if (settings.schedule.cfg_forbidden && scale != 1.0) {
    SLA2_CHECK(!params.is_set("cfg_scale"), SLA2_E_ARGUMENT,
               "cfg_scale = {} contradicts schedule \"{}\": distilled models have guidance built in and blur with more; set "
               "cfg_scale to 1 "
               "or choose another schedule",
               scale, spec.grid);
    scale = 1.0;
    settings.values.set_text("cfg_scale", "1");
    settings.notes.push_back(fmt::format("guidance is off because schedule {} is made for distilled models", spec.grid));
  }
  settings.cfg_scale = static_cast<float>(scale);
  settings.values.set_text("schedule", spec.grid);
  settings.values.set_text("steps", std::to_string(settings.steps()));
}

void resolve_linear_bits(const ModelParts& model, Settings& settings) {
  settings.linear_bits = static_cast<int>(settings.values.integer("linear_bits"));
  dit::Options options;
  options.linear_bits = settings.linear_bits;
  const dit::LinearBits bits = dit::linear_bits(model.dit_config, options);
  if (bits.activations < bits.weights && settings.gpu == nullptr)
    settings.notes.push_back(
        fmt::format("linear_bits = {}: this CPU lacks VNNI, so activations get {} bits; a CPU with it errs less", bits.weights,
                    bits.activations));
}

/// Number formats asked for where only their rounding, or not even that, can be had.
void tell_products(Settings& settings) {
  if (settings.gpu != nullptr) return;
  if (settings.precision == dit::Precision::kBf16 && !has_fast_bf16())
    settings.notes.push_back(fmt::format(
        "precision = bf16: this CPU (as {}) lacks AVX-512 BF16: Linears round to bf16 and multiply in fp32, attention "
        "with 16 bits multiplies fp32",
        isa_name(active_isa())));
  if (settings.attention.bits == 8 && active_isa() == Isa::kScalar)
    settings.notes.emplace_back("bits = 8: this CPU (as scalar) lacks AVX2: attention multiplies fp32");
}

}  // namespace

Settings resolve_settings(const ModelParts& model, const config::ParamSet& params, device::Gpu* stand_in) {
  Settings settings;
  settings.values = params;
  settings.values.fill_from(model.defaults);
  const config::ParamSet& values = settings.values;
  settings.values.set_text("model", model.path);

  settings.prompt = checked_prompt(values, "prompt");
  SLA2_CHECK(!settings.prompt.empty(), SLA2_E_ARGUMENT, "prompt is empty; say what the clip shows");
  settings.negative = checked_prompt(values, "negative_prompt");

  settings.width = values.integer("width");
  settings.height = values.integer("height");
  settings.frames = values.integer("frames");
  settings.fps = values.number("fps");
  settings.shape = latent::shape_for_video(model.vae_config.z_dim, settings.frames, settings.height, settings.width);
  settings.shape.values = {};
  settings.grid = latent::grid_of(settings.shape);
  const int64_t longest = std::max({settings.grid.frames, settings.grid.height, settings.grid.width});
  SLA2_CHECK(longest <= model.dit_config.rope_max, SLA2_E_ARGUMENT,
             "the clip spans {} positions along one axis, the model knows {}; choose a smaller width, height or frame count",
             longest, model.dit_config.rope_max);

  resolve_schedule(model, params, settings);
  settings.seed = static_cast<uint64_t>(values.integer("seed"));
  open_loras(model, settings);
  apply_pack(model, params, settings);
  resolve_attention(model, params, settings);
  tell_kappas(model, settings);
  settings.precision = dit_precision(values.text("precision"));
  settings.gpu = choose_gpu(values.text("device"), stand_in, settings.notes);
  resolve_linear_bits(model, settings);
  tell_products(settings);
  settings.vae_precision = vae_precision(values.text("vae_precision"));
  settings.vae_tile = values.integer("vae_tile");

  settings.threads = static_cast<int>(values.integer("threads"));
  settings.memory_limit = static_cast<uint64_t>(values.integer("memory_limit")) * kMegabyte;
  settings.checkpoint = values.text("checkpoint");
  settings.checkpoint_every = values.integer("checkpoint_every");
  settings.latent_out = values.text("latent_out");
  settings.embedding_cache = values.text("embedding_cache");
  settings.nan_retry = values.flag("nan_retry");
  settings.preview_every = values.integer("preview_every");
  return settings;
}

}  // namespace sla2::pipeline
