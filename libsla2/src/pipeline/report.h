// SPDX-License-Identifier: Apache-2.0
// What happened, collected while a job runs, and its JSON form.
#pragma once
#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "dit/dit.h"
#include "pipeline/model.h"
#include "pipeline/preflight.h"
#include "pipeline/settings.h"
#include "pipeline/state.h"

namespace sla2::pipeline {

/// What the error probe saw over several calls.
struct ProbeTotals {
  double l1_sum = 0, cosine_sum = 0, worst_l1 = 0;
  int64_t calls = 0;
};

struct LayerTotals {
  double seconds = 0, attention_seconds = 0;
  AttentionTotals attention;
  std::map<std::string, int64_t> modes;  ///< forwards by what really ran
  ProbeTotals probe;
  int32_t attention_bits = 16;  ///< this and the next: as attention last ran, whatever was asked for
  DType attention_products = DType::kF32;
};

struct RunRecord {
  sla2_status status = SLA2_OK;
  std::string error;
  bool finished = false;
  int resumed_from = -1;  ///< step; -1: not resumed
  int steps_done = 0;
  int prompt_tokens = 0, negative_tokens = 0, prompt_dropped = 0, negative_dropped = 0;
  bool embedding_from_cache = false;
  double load_seconds = 0, text_seconds = 0, sample_seconds = 0, decode_seconds = 0, total_seconds = 0;
  std::string dit_where = "not loaded", products;  ///< in words, as it was last
  std::string text_where = "not run";              ///< "the cache" where nothing had to be encoded
  std::string vae_where = "not loaded", vae_products;
  std::vector<double> step_seconds;
  std::vector<LayerTotals> layers;  ///< since the job began or was resumed
  AttentionTotals attention;        ///< of the whole run, steps before it was resumed included
  bool use_fp32 = false;            ///< since a NaN
  std::vector<std::string> fallbacks;
  int64_t frames = 0;

  /// Add one forward's layer facts.
  void add(const dit::ForwardReport& report);
};

/// What "auto" means here: {"dit", "vae"}, "fp32" or "bf16". Other products, other last digits.
nlohmann::ordered_json resolved_precision(const Settings& settings);
/// What the frames depend on beside the settings: {"cpu", "isa", "precision"}.
nlohmann::ordered_json machine_facts(const Settings& settings);

std::string report_json(const ModelParts& model, const Settings& settings, const MemoryPlanSummary& plan,
                        const RunRecord& record);

}  // namespace sla2::pipeline
