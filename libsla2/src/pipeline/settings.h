// SPDX-License-Identifier: Apache-2.0
// Everything a job has decided before it starts: values resolved (user, then model, then table), typed and checked
// against each other.
#pragma once
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "config/params/params.h"
#include "device/device.h"
#include "dit/dit.h"
#include "latent/latent.h"
#include "pipeline/attention_schedule.h"
#include "pipeline/model.h"
#include "sampler/sampler.h"
#include "vae/vae.h"

namespace sla2::pipeline {

struct AttentionSettings {
  attention::Mode mode = attention::Mode::kFull;
  double sparsity = 0;
  int32_t bits = 16;
  attention::Order token_order = attention::Order::kRaster;
  std::vector<AttentionRule> rules;  ///< of attention_schedule; the last that fits decides
  int32_t block_q = 128, block_k = 64;
  int64_t min_tokens = 0;
  dit::LayerAttention own;  ///< what the user says of sparse layers beside that: router, mixing, protected blocks, probe
  std::shared_ptr<const weights::RouterPack> pack;  ///< or SLA v1 weights of the model; null: nothing was learned
  /// In layers of the pack's mode: what it says, then what was learned.
  attention::Mode pack_mode = attention::Mode::kFull;
  attention::Router router = attention::Router::kSla2;
  attention::Mix mix = attention::Mix::kHeadAffineLse;
  attention::Scope scope = attention::Scope::kComplement;
  bool smooth_k = true;
  int64_t steps_first = 0, steps_last = 0, layers_first = 0, layers_last = 0;  ///< kept dense
};

struct Settings {
  config::ParamSet values;                 ///< user's and model's, as text; what is saved and reported
  std::vector<std::string> notes;          ///< decisions the user should hear of
  std::vector<std::string> pack_warnings;  ///< those about the router pack, for the report

  std::string prompt, negative;  ///< cleaned
  int64_t width = 0, height = 0, frames = 0;
  double fps = 0;
  latent::Latent shape;  ///< sizes only
  latent::Grid grid;

  std::string solver;
  sampler::Schedule schedule;
  float cfg_scale = 1;
  uint64_t seed = 0;

  AttentionSettings attention;
  std::vector<weights::LoraFile> loras;
  device::Gpu* gpu = nullptr;                   ///< where the DiT shall run; null: the CPU
  bool dit_on_gpu = false, vae_on_gpu = false;  ///< as planned, once the memory has been looked at
  dit::Precision precision = dit::Precision::kAuto;
  int linear_bits = 16;
  vae::Precision vae_precision = vae::Precision::kAuto;
  int64_t vae_tile = 0;

  int threads = 0;
  uint64_t memory_limit = 0;  ///< bytes; 0: what is available
  std::string checkpoint, latent_out, embedding_cache;
  int64_t checkpoint_every = 0, preview_every = 0;
  bool nan_retry = true;

  [[nodiscard]] int steps() const noexcept { return static_cast<int>(schedule.timesteps.size()); }
  [[nodiscard]] bool guided() const noexcept { return cfg_scale != 1.0f; }
};

/// Mode, blocks, router and so on from the values; mode sla2 where only a sparsity is given. After apply_pack. `params`: what the
/// user set. Throws ARGUMENT.
void resolve_attention(const ModelParts& model, const config::ParamSet& params, Settings& settings);

/// Throws ARGUMENT for values that contradict each other or the model, DEVICE where a GPU is asked for and there is none.
/// `stand_in`: see Job::start.
Settings resolve_settings(const ModelParts& model, const config::ParamSet& params, device::Gpu* stand_in = nullptr);

/// What self-attention does in each layer at `step`: mode, then the schedule's rules, then dense guards; empty: every layer full
/// in 16 bits.
std::vector<dit::LayerAttention> attention_policy(const AttentionSettings& attention, int step, int steps, int64_t layers);
/// All that differ from plain full attention over a whole run, each once: what must be planned for.
std::vector<dit::LayerAttention> attention_kinds(const AttentionSettings& attention, int steps, int64_t layers);

}  // namespace sla2::pipeline
