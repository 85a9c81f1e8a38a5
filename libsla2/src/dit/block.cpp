// SPDX-License-Identifier: Apache-2.0
// One transformer block on x [tokens, dim], fp32, in place (wan_runner §1.2, step 5): modulated self-attention with RMSNorm and
// rotary embedding on q and k, cross-attention to the prompt, modulated FFN. Rows go through in chunks; only attention sees
// whole-sequence tensors.
#include <algorithm>
#include <chrono>

#include "dit/model.h"
#include "kernels/norm.h"

namespace sla2::dit {

namespace {

using Kind = kernels::Epilogue::Kind;
using Clock = std::chrono::steady_clock;

template <typename Body>
void for_chunks(const Workspace& work, const Body& body) {
  for (int64_t row = 0; row < work.tokens; row += work.chunk) body(row, std::min(work.chunk, work.tokens - row));
}

template <typename Body>
double seconds(const Body& body) {
  const auto start = Clock::now();
  body();
  return std::chrono::duration<double>(Clock::now() - start).count();
}

attention::Operand heads_of(const float* data, int64_t width, int64_t head_dim) {
  return {data, DType::kF32, 0, head_dim, width};
}

double self_attention(const config::DitConfig& c, const Block& block, const float* modulation, attention::Plan& plan,
                      const attention::Parameters& learned, attention::Probe* probe, const Workspace& work) {
  const float *shift = modulation, *scale = shift + c.dim, *gate = scale + c.dim;
  const auto eps = static_cast<float>(c.eps);
  const int64_t width = 3 * c.dim;
  for_chunks(work, [&](int64_t row, int64_t rows) {
    float* qkv = work.qkv + row * width;
    kernels::layer_norm(work.x + row * c.dim, c.dim, scale, shift, eps, work.qkv_norm, c.dim, rows, c.dim);
    block.qkv.forward(work.qkv_norm, rows, c.dim, qkv, width, {}, work.scratch);
    kernels::rms_norm_rope(qkv, width, block.norm_q.data(), eps, work.rope, row, rows, c.heads);
    kernels::rms_norm_rope(qkv + c.dim, width, block.norm_k.data(), eps, work.rope, row, rows, c.heads);
  });
  const double spent = seconds([&] {
    attention::Forward call;
    call.q = heads_of(work.qkv, width, c.head_dim);
    call.k = heads_of(work.qkv + c.dim, width, c.head_dim);
    call.v = heads_of(work.qkv + 2 * c.dim, width, c.head_dim);
    call.out = {work.self_out, DType::kF32, 0, c.head_dim, c.dim};
    call.parameters = learned;
    call.probe = probe;
    plan.forward(call, work.attention);
  });
  for_chunks(work, [&](int64_t row, int64_t rows) {
    block.self_out.forward(work.self_out + row * c.dim, rows, c.dim, work.x + row * c.dim, c.dim, {Kind::kAddGated, gate},
                           work.scratch);
  });
  return spent;
}

double cross_attention(const config::DitConfig& c, const Block& block, const Prompt& prompt, int64_t layer, attention::Plan& plan,
                       const Workspace& work) {
  const auto eps = static_cast<float>(c.eps);
  for_chunks(work, [&](int64_t row, int64_t rows) {
    const float* input = work.x + row * c.dim;
    float* q = work.cross_q + row * c.dim;
    if (!block.norm3_weight.empty()) {
      kernels::layer_norm(input, c.dim, block.norm3_weight.data(), block.norm3_bias.data(), eps, work.cross_norm, c.dim, rows,
                          c.dim);
      input = work.cross_norm;
    }
    block.cross_query.forward(input, rows, c.dim, q, c.dim, {}, work.scratch);
    kernels::rms_norm(q, c.dim, block.cross_norm_q.data(), eps, q, c.dim, rows, c.dim);
  });
  const double spent = seconds([&] {
    plan.forward(heads_of(work.cross_q, c.dim, c.head_dim), heads_of(prompt.k(layer), c.dim, c.head_dim),
                 heads_of(prompt.v(layer), c.dim, c.head_dim), prompt.key_bias.data(), work.attention,
                 {work.cross_out, DType::kF32, 0, c.head_dim, c.dim});
  });
  for_chunks(work, [&](int64_t row, int64_t rows) {
    block.cross_out.forward(work.cross_out + row * c.dim, rows, c.dim, work.x + row * c.dim, c.dim, {Kind::kAddGated},
                            work.scratch);
  });
  return spent;
}

void feed_forward(const config::DitConfig& c, const Block& block, const float* modulation, const Workspace& work) {
  const float *shift = modulation + 3 * c.dim, *scale = shift + c.dim, *gate = scale + c.dim;
  for_chunks(work, [&](int64_t row, int64_t rows) {
    float* x = work.x + row * c.dim;
    kernels::layer_norm(x, c.dim, scale, shift, static_cast<float>(c.eps), work.ffn_norm, c.dim, rows, c.dim);
    block.ffn_in.forward(work.ffn_norm, rows, c.dim, work.hidden, c.ffn_dim, {Kind::kGeluTanh}, work.scratch);
    block.ffn_out.forward(work.hidden, rows, c.ffn_dim, x, c.dim, {Kind::kAddGated, gate}, work.scratch);
  });
}

}  // namespace

Block load_block(const Loader& loader, const config::DitConfig& c, int64_t layer) {
  const auto vector = [&](const char* tensor, const std::vector<int64_t>& shape) {
    return loader.vector(block_name(layer, tensor), shape);
  };
  Block block{loader.linear(spec_qkv(c, layer)),
              loader.linear(spec_self_out(c, layer)),
              loader.linear(spec_cross(c, layer, "q")),
              loader.linear(spec_cross(c, layer, "o")),
              loader.linear(spec_ffn_in(c, layer)),
              loader.linear(spec_ffn_out(c, layer)),
              vector("modulation", {1, kModulationVectors, c.dim}),
              vector("self_attn.norm_q.weight", {c.dim}),
              vector("self_attn.norm_k.weight", {c.dim}),
              vector("cross_attn.norm_q.weight", {c.dim}),
              {},
              {}};
  if (c.cross_attn_norm) {
    block.norm3_weight = vector("norm3.weight", {c.dim});
    block.norm3_bias = vector("norm3.bias", {c.dim});
  }
  return block;
}

attention::Parameters learned_parameters(const weights::PackLayer& learned, const LayerAttention& layer) {
  const auto pointer = [](const std::vector<float>& values) { return values.empty() ? nullptr : values.data(); };
  attention::Parameters p;
  p.router_q = pointer(learned.router_q);
  p.router_k = pointer(learned.router_k);
  p.router_heads = learned.router_heads;
  p.proj = pointer(learned.proj);
  p.proj_bias = pointer(learned.proj_bias);
  if (!learned.mix.empty()) p.mix = pointer(learned.mix.at(static_cast<size_t>(layer.mix_set)));
  return p;
}

BlockTimes run_block(const config::DitConfig& config, const Block& block, const float* modulation, const Prompt& prompt,
                     int64_t layer, attention::Plan& self_plan, const attention::Parameters& learned, attention::Probe* probe,
                     attention::Plan& cross_plan, const Workspace& work) {
  BlockTimes times;
  times.attention_seconds = self_attention(config, block, modulation, self_plan, learned, probe, work);
  times.attention_seconds += cross_attention(config, block, prompt, layer, cross_plan, work);
  feed_forward(config, block, modulation, work);
  return times;
}

}  // namespace sla2::dit
