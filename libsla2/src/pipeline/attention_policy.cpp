// SPDX-License-Identifier: Apache-2.0
// Dense guards. Early steps settle the layout of the clip and the last ones its detail, and the outer layers attend to the
// most: presets keep some of them full while the rest runs sparse. A schedule says the same, and other modes, layer by layer.
#include "pipeline/settings.h"

namespace sla2::pipeline {
namespace {

attention::Mode mode_of(config::LayerMode mode) {
  switch (mode) {
    case config::LayerMode::kSparseOnly: return attention::Mode::kSparseOnly;
    case config::LayerMode::kLinearOnly: return attention::Mode::kLinearOnly;
    case config::LayerMode::kSla1: return attention::Mode::kSla1;
    case config::LayerMode::kSla2: return attention::Mode::kSla2;
    default: return attention::Mode::kFull;
  }
}

std::vector<dit::LayerAttention> scheduled(const AttentionSettings& attention, int step, int steps, int64_t layers) {
  std::vector<dit::LayerAttention> policy;
  bool all_full = true;
  for (int64_t layer = 0; layer < layers; ++layer) {
    const config::LayerChoice choice = attention.schedule->at(layer, step, steps);
    all_full = all_full && choice.mode == config::LayerMode::kFull;
    policy.push_back({mode_of(choice.mode), choice.sparsity, attention.block_q, attention.block_k});
  }
  return all_full ? std::vector<dit::LayerAttention>() : policy;
}

}  // namespace

std::vector<dit::LayerAttention> attention_policy(const AttentionSettings& attention, int step, int steps, int64_t layers) {
  if (attention.schedule) return scheduled(attention, step, steps, layers);
  const bool dense_step = step < attention.steps_first || step >= steps - attention.steps_last;
  const bool no_sparse_layer = attention.layers_first + attention.layers_last >= layers;
  if (!attention.sparse || dense_step || no_sparse_layer) return {};
  std::vector<dit::LayerAttention> policy(static_cast<size_t>(layers));
  for (int64_t layer = attention.layers_first; layer < layers - attention.layers_last; ++layer) {
    policy[static_cast<size_t>(layer)] = {attention::Mode::kSla2, attention.sparsity, attention.block_q, attention.block_k};
  }
  return policy;
}

}  // namespace sla2::pipeline
