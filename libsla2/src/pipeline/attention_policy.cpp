// SPDX-License-Identifier: Apache-2.0
// Dense guards. Early steps settle the layout of the clip and the last ones its detail, and the outer layers attend to the
// most: presets keep some of them full while the rest runs sparse.
#include "pipeline/settings.h"

namespace sla2::pipeline {

std::vector<dit::LayerAttention> attention_policy(const AttentionSettings& attention, int step, int steps, int64_t layers) {
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
