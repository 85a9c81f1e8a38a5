// SPDX-License-Identifier: Apache-2.0
#include "dit/gpu_plan.h"

#include <algorithm>

#include "dit/model.h"

namespace sla2::dit {

namespace {

constexpr int64_t kPatchArea = 4;
constexpr double kMiB = 1024.0 * 1024.0;

}  // namespace

int64_t default_gpu_chunk(int64_t tokens) {
  constexpr int64_t kMost = 8192, kMultiple = cuda::kGemmRows;
  const int64_t chunks = (tokens + kMost - 1) / kMost, even = (tokens + chunks - 1) / chunks;
  return std::min(tokens, (even + kMultiple - 1) / kMultiple * kMultiple);
}

Holding gpu_holding(const Options& options) {
  SLA2_CHECK(options.linear_bits == 16 || options.linear_bits == 8, SLA2_E_ARGUMENT, "linear_bits is {}, expected 16 or 8",
             options.linear_bits);
  SLA2_CHECK(
      options.precision != Precision::kF32, SLA2_E_UNSUPPORTED,
      "diffusion model on a GPU: precision is fp32; its tensor cores multiply bf16 or bytes: leave precision at auto, or run "
      "on the CPU");
  return {{DType::kBF16, kernels::Compute::kBf16}, options.linear_bits == 8};
}

void check_gpu_attention(const LayerAttention& kind) {
  SLA2_CHECK(
      kind.probe == 0, SLA2_E_UNSUPPORTED,
      "diffusion model on a GPU: probe is {}; comparing with full attention would stop the queue in every layer: leave probe "
      "at 0, or run on the CPU",
      kind.probe);
}

GpuActivations::GpuActivations(const config::DitConfig& c, const Holding& holding, int64_t token_count, int64_t token_chunk,
                               int streams)
    : tokens(token_count), chunk(token_chunk > 0 ? std::min(token_count, token_chunk) : default_gpu_chunk(token_count)) {
  const auto add = [&](const char* name, int64_t rows, int64_t width, uint64_t bytes, Step first, Step last) {
    return memory.add(name, static_cast<uint64_t>(rows * width) * bytes, first, last);
  };
  constexpr uint64_t kNarrow = sizeof(bf16_t), kWide = sizeof(float);
  const int64_t dim = c.dim;
  for (int i = 0; i < streams; ++i) x[i] = add("residual stream x", tokens, dim, kWide, Activations::kPatch, Activations::kHead);
  if (streams == 1) x[1] = x[0];
  // Two prompts take turns inside a block: what one leaves behind is dead when the other begins.
  tokens_in = add("input patches", tokens, c.in_channels * kPatchArea, kNarrow, Activations::kPatch, Activations::kPatch);
  qkv = add("q, k, v", tokens, 3 * dim, kNarrow, Activations::kQkv, Activations::kSelfAttention);
  self_out = add("self-attention output", tokens, dim, kNarrow, Activations::kSelfAttention, Activations::kSelfOut);
  cross_q = add("cross q", tokens, dim, kNarrow, Activations::kCrossQuery, Activations::kCrossAttention);
  cross_out = add("cross-attention output", tokens, dim, kNarrow, Activations::kCrossAttention, Activations::kCrossOut);
  normed = add("normed rows", chunk, dim, kNarrow, Activations::kQkv, Activations::kHead);
  hidden = add("FFN hidden rows", chunk, c.ffn_dim, kNarrow, Activations::kFfn, Activations::kFfn);
  if (holding.eight_bits) {
    steps = add("rows in bytes", chunk, std::max(dim, c.ffn_dim), 1, Activations::kQkv, Activations::kFfn);
    scale = add("scales of rows", chunk, 1, kWide, Activations::kQkv, Activations::kFfn);
  }
  tokens_out = add("output patches", tokens, c.out_channels * kPatchArea, kWide, Activations::kHead, Activations::kHead);
  bad = add("marks of NaN", 2, c.layers + 1, sizeof(int32_t), Activations::kPatch, Activations::kHead);
  memory.solve();
}

PlanSummary plan_on(device::Gpu& gpu, const config::DitConfig& c, const latent::Grid& grid, int64_t prompt_tokens,
                    const Options& options, std::span<const LayerAttention> kinds, int prompts) {
  const Holding holding = gpu_holding(options);
  const BlockPlaces block(c, holding);
  const FixedPlaces fixed(c, holding);
  const int slots = options.weight_slots;
  const int streams = slots > 0 ? std::max(prompts, 1) : 1;
  const GpuActivations activations(c, holding, grid.tokens(), options.token_chunk, streams);
  const int64_t keys = prompt_keys(c, prompt_tokens), width = std::max(c.text_dim, c.dim);
  const auto workspace_of = [&](const attention::Config& config) {
    return attention::Plan::create(config, gpu)->workspace_bytes();
  };
  uint64_t workspace = std::max(workspace_of(self_attention_config(c, grid.tokens(), {}, holding.compute)),
                                workspace_of(cross_attention_config(c, grid.tokens(), keys, holding.compute)));
  for (const LayerAttention& kind : kinds) {
    check_gpu_attention(kind);
    workspace = std::max(workspace, workspace_of(self_attention_config(c, grid.tokens(), kind, holding.compute)));
  }

  PlanSummary summary;
  const uint64_t pack = options.pack == nullptr ? 0 : options.pack->bytes();
  const auto held = static_cast<uint64_t>(slots > 0 ? std::min<int64_t>(slots, c.layers) : c.layers);
  const uint64_t constants = 2 * static_cast<uint64_t>(modulation_floats(c)) * sizeof(float);
  summary.weight_bytes = fixed.bytes + held * block.bytes + constants + pack;
  const auto bf16 = [](int64_t rows, int64_t columns) { return static_cast<uint64_t>(rows * columns) * sizeof(bf16_t); };
  const uint64_t values = bf16(c.layers * 2 * keys, c.dim);
  const uint64_t pass = bf16(width, c.dim) + bf16(2 * keys, c.dim) + bf16(keys, c.text_dim);
  summary.prompt_bytes = values * static_cast<uint64_t>(std::max(prompts, 1)) + pass;
  summary.activation_bytes = activations.memory.total_bytes() + workspace;
  const auto mib = [](uint64_t bytes) { return static_cast<double>(bytes) / kMiB; };
  summary.text = fmt::format(
      "weights on the GPU: {:.1f} MiB, {} of {} blocks of {:.1f} MiB{}, {:.1f} MiB beside them{}\n"
      "prompts: {:.1f} MiB cross-attention K and V ({} keys), {:.1f} MiB while they are made\n"
      "attention workspace: {:.1f} MiB\nactivations: {:.1f} MiB for {} tokens, {} rows at a time\n{}",
      mib(summary.weight_bytes), held, c.layers, mib(block.bytes), slots > 0 ? ", streamed from pinned memory" : "",
      mib(fixed.bytes + constants), holding.eight_bits ? "; Linears of blocks as 8-bit integers" : "",
      mib(summary.prompt_bytes - pass), keys, mib(pass), mib(workspace), mib(activations.memory.total_bytes()),
      activations.tokens, activations.chunk, activations.memory.to_text());
  return summary;
}

}  // namespace sla2::dit
