// SPDX-License-Identifier: Apache-2.0
// What a job is made of between two steps: everything a checkpoint keeps, and nothing else.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "latent/latent.h"
#include "pipeline/model.h"
#include "pipeline/settings.h"
#include "sampler/sampler.h"
#include "text/text.h"

namespace sla2::pipeline {

/// How sparse self-attention really was, summed over forwards of layers.
struct AttentionTotals {
  double sparsity_sum = 0;  ///< over those that ran sparse
  int64_t forwards = 0, sparse_forwards = 0;

  void add(const attention::Stats& stats) {
    ++forwards;
    if (stats.mode_used == attention::Mode::kFull) return;
    ++sparse_forwards;
    sparsity_sum += stats.achieved_sparsity;
  }
  [[nodiscard]] double achieved_sparsity() const {
    return sparse_forwards > 0 ? sparsity_sum / static_cast<double>(sparse_forwards) : 0.0;
  }
};

struct JobState {
  int step = 0;                              ///< finished steps
  latent::Latent x;                          ///< [C,F,H,W] at sigma[step]
  std::string noise_state;                   ///< random numbers from here on (stochastic solvers)
  std::vector<sampler::StateTensor> solver;  ///< empty before the first step
  bool encoded = false;                      ///< are the embeddings below filled?
  text::Embedding positive, negative;        ///< negative is empty without guidance
  int prompt_tokens = 0, negative_tokens = 0;
  bool use_fp32 = false;           ///< after a NaN in bf16 the rest of the job runs in fp32
  std::vector<std::string> notes;  ///< fallbacks so far
  AttentionTotals attention;       ///< of the finished steps: a clip's metadata must not tell where its run was interrupted
};

/// Written atomically; a reader sees the old file or the new one.
void write_checkpoint(const std::string& path, const ModelParts& model, const Settings& settings, const JobState& state);

struct SavedJob {
  config::ParamSet values;
  std::vector<float> sigmas;
  std::string dit_digest, vae_digest, encoder_digest, lora_digest, pack_digest;
  std::string machine;  ///< machine_facts() as JSON; "" in checkpoints of before they were kept
  JobState state;
};
/// Throws FILE_* | VERSION.
SavedJob read_checkpoint(const std::string& path);

/// The finished latent with its settings, before decoding: hours of sampling are never lost to a decode that fails.
void write_latent(const std::string& path, const ModelParts& model, const Settings& settings, const latent::Latent& x);

}  // namespace sla2::pipeline
