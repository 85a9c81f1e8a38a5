// SPDX-License-Identifier: Apache-2.0
// What self-attention does in each layer at one step. Dense guards come last and win: early steps settle the layout of the clip
// and the last ones its detail, and the outer layers attend to the most.
#include "pipeline/settings.h"

namespace sla2::pipeline {
namespace {

/// What the pack says of a layer that runs its mode. A layer without numbers for mixing has the default ones, whatever the others
/// have.
void add_learned(const AttentionSettings& attention, const weights::PackLayer& learned, dit::LayerAttention& one) {
  one.router = attention.router;
  one.scope = attention.scope;
  one.smooth_k = attention.smooth_k;
  if (!learned.mix.empty() || attention.mix == attention::Mix::kConst) one.mix = attention.mix;
  one.learned = !learned.empty();
  if (learned.mix.size() > 1) one.mix_set = static_cast<int32_t>(attention.pack->metadata.nearest_kappa(one.sparsity));
}

dit::LayerAttention one_layer(const AttentionSettings& attention, int step, int steps, int64_t layer, int64_t layers) {
  const bool guarded = step < attention.steps_first || step >= steps - attention.steps_last || layer < attention.layers_first ||
                       layer >= layers - attention.layers_last;
  if (guarded) return {};
  attention::Mode mode = attention.mode;
  double sparsity = attention.sparsity;
  int32_t bits = attention.bits;
  attention::Router router = attention.own.router;
  for (const AttentionRule& rule : attention.rules)
    if (rule.fits(step, steps, layer, layers)) {
      mode = rule.mode;
      sparsity = rule.sparsity.value_or(attention.sparsity);
      bits = rule.bits.value_or(attention.bits);
      router = rule.router.value_or(attention.own.router);
    }
  // Eight bits are for full attention too: it is the one with the most products.
  if (mode == attention::Mode::kFull && bits == dit::LayerAttention{}.bits) return {};
  if (mode == attention::Mode::kFull) sparsity = 0;
  dit::LayerAttention one;
  if (mode != attention::Mode::kFull) {
    one = attention.own;
    one.router = router;
    one.min_tokens = attention.min_tokens;
    if (mode != attention::Mode::kSla1) one.negligible = 0;
  }
  one.mode = mode, one.sparsity = sparsity, one.bits = bits;
  one.block_q = attention.block_q, one.block_k = attention.block_k;
  if (attention.pack != nullptr && mode == attention.pack_mode)
    add_learned(attention, attention.pack->layers[static_cast<size_t>(layer)], one);
  return one;
}

}  // namespace

std::vector<dit::LayerAttention> attention_policy(const AttentionSettings& attention, int step, int steps, int64_t layers) {
  std::vector<dit::LayerAttention> policy;
  for (int64_t layer = 0; layer < layers; ++layer) policy.push_back(one_layer(attention, step, steps, layer, layers));
  const bool plain = std::all_of(policy.begin(), policy.end(), [](const auto& layer) { return layer == dit::LayerAttention{}; });
  return plain ? std::vector<dit::LayerAttention>{} : policy;
}

std::vector<dit::LayerAttention> attention_kinds(const AttentionSettings& attention, int steps, int64_t layers) {
  std::vector<dit::LayerAttention> kinds;
  for (int step = 0; step < steps; ++step)
    for (const dit::LayerAttention& layer : attention_policy(attention, step, steps, layers))
      if (layer != dit::LayerAttention{} && std::find(kinds.begin(), kinds.end(), layer) == kinds.end()) kinds.push_back(layer);
  return kinds;
}

}  // namespace sla2::pipeline
