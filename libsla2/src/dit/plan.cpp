// SPDX-License-Identifier: Apache-2.0
#include "dit/plan.h"

#include <algorithm>

namespace sla2::dit {

namespace {

constexpr int64_t kPatchArea = 4, kModulations = 6;
constexpr double kMiB = 1024.0 * 1024.0;

uint64_t float_bytes(int64_t rows, int64_t width) { return static_cast<uint64_t>(rows * width) * sizeof(float); }

uint64_t linear_scratch(const LinearSpec& spec, int64_t rows, const Holding& holding) {
  const LinearForm form = form_of(spec, holding);
  return kernels::PackedLinear::workspace_bytes(spec.in, spec.out(), rows, form.held, form.compute);
}

uint64_t scratch_bytes(const std::vector<LinearSpec>& specs, int64_t rows, const Holding& holding) {
  uint64_t most = 0;
  for (const LinearSpec& spec : specs) most = std::max(most, linear_scratch(spec, rows, holding));
  return most;
}

}  // namespace

int64_t prompt_keys(const config::DitConfig& config, int64_t prompt_tokens) {
  return prompt_tokens < config.text_len ? prompt_tokens + 1 : prompt_tokens;
}

int64_t modulation_floats(const config::DitConfig& config) { return (config.layers * kModulations + 2) * config.dim; }

uint64_t resident_bytes(const config::DitConfig& config, const Holding& holding) {
  uint64_t sum = 2 * static_cast<uint64_t>(modulation_floats(config)) * sizeof(float);  // as stored, and for one timestep
  sum += float_bytes(config.layers, (3 + 2 * static_cast<int64_t>(config.cross_attn_norm)) * config.dim);  // norms
  for (const LinearSpec& spec : resident_linears(config))
    sum += kernels::PackedLinear::held_bytes(spec.in, spec.out(), form_of(spec, holding).held);
  return sum;
}

attention::Config self_attention_config(const config::DitConfig& config, int64_t tokens, const LayerAttention& layer,
                                        kernels::Compute compute) {
  attention::Config c;
  if (compute == kernels::Compute::kBf16) c.products = DType::kBF16;
  c.mode = layer.mode;
  c.heads = config.heads;
  c.query_tokens = c.key_tokens = tokens;
  c.head_dim = config.head_dim;
  c.bits = layer.bits;
  if (layer.mode == attention::Mode::kFull) return c;
  c.sparsity = layer.sparsity;
  c.block_q = layer.block_q;
  c.block_k = layer.block_k;
  c.router = layer.router;
  c.mix = layer.mix;
  c.scope = layer.scope;
  c.smooth_k = layer.smooth_k;
  c.min_tokens = layer.min_tokens;
  c.rule = layer.rule;
  c.top_p = layer.top_p;
  c.theta = layer.theta;
  c.negligible = layer.negligible;
  c.mix_scale = layer.mix_scale;
  c.mix_bias = layer.mix_bias;
  c.protect_first = layer.protect_first;
  c.protect_last = layer.protect_last;
  c.protect_near = layer.protect_near;
  return c;
}

attention::Config cross_attention_config(const config::DitConfig& config, int64_t tokens, int64_t keys,
                                         kernels::Compute compute) {
  attention::Config c = self_attention_config(config, tokens, {}, compute);
  c.key_tokens = keys;
  return c;
}

int64_t default_token_chunk(int64_t tokens) {
  constexpr int64_t kRowsPerThread = 512, kLeast = 1024, kMost = 4096, kMultiple = 16;
  const int64_t most = std::clamp(kRowsPerThread * thread_count(), kLeast, kMost);
  const int64_t chunks = (tokens + most - 1) / most, even = (tokens + chunks - 1) / chunks;  // no small rest
  return std::min(tokens, (even + kMultiple - 1) / kMultiple * kMultiple);
}

Activations::Activations(const config::DitConfig& config, const Holding& holding, int64_t token_count, int64_t token_chunk)
    : tokens(token_count), chunk(token_chunk > 0 ? std::min(token_count, token_chunk) : default_token_chunk(token_count)) {
  const auto add = [&](const char* name, int64_t rows, int64_t width, Step first, Step last) {
    return memory.add(name, float_bytes(rows, width), first, last);
  };
  const int64_t dim = config.dim;
  x = add("residual stream x", tokens, dim, kPatch, kHead);
  tokens_in = add("input patches", tokens, config.in_channels * kPatchArea, kPatch, kPatch);
  qkv = add("q, k, v", tokens, 3 * dim, kQkv, kSelfAttention);
  qkv_norm = add("normed rows for q, k, v", chunk, dim, kQkv, kQkv);
  self_out = add("self-attention output", tokens, dim, kSelfAttention, kSelfOut);
  cross_norm = add("normed rows for cross q", chunk, dim, kCrossQuery, kCrossQuery);
  cross_q = add("cross q", tokens, dim, kCrossQuery, kCrossAttention);
  cross_out = add("cross-attention output", tokens, dim, kCrossAttention, kCrossOut);
  ffn_norm = add("normed rows for FFN", chunk, dim, kFfn, kFfn);
  hidden = add("FFN hidden rows", chunk, config.ffn_dim, kFfn, kFfn);
  head_norm = add("normed rows for head", chunk, dim, kHead, kHead);
  tokens_out = add("output patches", tokens, config.out_channels * kPatchArea, kHead, kHead);
  scratch = memory.add("scratch of products", scratch_bytes(resident_linears(config), chunk, holding), kPatch, kHead);
  memory.solve();
}

PlanSummary plan(const config::DitConfig& config, const latent::Grid& grid, int64_t prompt_tokens, const Options& options,
                 std::span<const LayerAttention> kinds, DType stored) {
  const Holding holding = choose_holding(config, stored, options);
  const Activations activations(config, holding, grid.tokens(), options.token_chunk);
  const int64_t keys = prompt_keys(config, prompt_tokens), width = std::max(config.text_dim, config.dim);

  uint64_t workspace =
      std::max(attention::Plan::create(self_attention_config(config, grid.tokens(), {}, holding.compute))->workspace_bytes(),
               attention::Plan::create(cross_attention_config(config, grid.tokens(), keys, holding.compute))->workspace_bytes());
  for (const LayerAttention& kind : kinds)
    workspace =
        std::max(workspace,
                 attention::Plan::create(self_attention_config(config, grid.tokens(), kind, holding.compute))->workspace_bytes());

  PlanSummary summary;
  const uint64_t pack = options.pack == nullptr ? 0 : options.pack->bytes();
  summary.weight_bytes = resident_bytes(config, holding) + pack;
  const uint64_t constants = float_bytes(config.layers * 2 * keys, config.dim);
  const uint64_t pass = kernels::PackedLinear::held_bytes(width, config.dim, holding.held) + float_bytes(2 * keys, config.dim) +
                        float_bytes(keys, config.text_dim) + scratch_bytes({spec_text_in(config)}, keys, holding);
  summary.prompt_bytes = constants + pass;
  summary.activation_bytes = activations.memory.total_bytes() + workspace;
  const auto mib = [](uint64_t bytes) { return static_cast<double>(bytes) / kMiB; };
  summary.text = fmt::format(
      "weights: {:.1f} MiB, Linears held as {}, products in {}{}{}\n"
      "prompt: {:.1f} MiB cross-attention K and V ({} keys), {:.1f} MiB while they are made\n"
      "attention workspace: {:.1f} MiB\nactivations: {:.1f} MiB for {} tokens, {} rows at a time\n{}",
      mib(summary.weight_bytes), dtype_name(holding.held), holding.compute == kernels::Compute::kBf16 ? "bf16" : "fp32",
      holding.eight_bits ? "; those of the blocks as 8-bit integers" : "",
      pack > 0 ? fmt::format("; {:.1f} MiB of them learned for attention", mib(pack)) : "", mib(constants), keys, mib(pass),
      mib(workspace), mib(activations.memory.total_bytes()), activations.tokens, activations.chunk, activations.memory.to_text());
  return summary;
}

}  // namespace sla2::dit
