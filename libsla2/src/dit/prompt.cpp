// SPDX-License-Identifier: Apache-2.0
// Text rows [n, text_dim] to every layer's cross-attention K and V, once per prompt: they do not depend on the step.
// The reference pads the rows with zeros to text_len and attends to all of them without a mask. Equal keys and values can be
// one key whose logit has ln(count) added: softmax over m equal logits z is softmax over one logit z + ln m. So padding costs
// one key here, and the result is exact. The weights used here are read from the checkpoint and not kept.
#include <algorithm>
#include <cmath>

#include "dit/model.h"
#include "kernels/norm.h"

namespace sla2::dit {

namespace {

AlignedBuffer<float> apply(const kernels::PackedLinear& linear, const float* x, int64_t rows, kernels::Epilogue::Kind kind) {
  AlignedBuffer<float> y(static_cast<size_t>(rows * linear.out()));
  AlignedBuffer<std::byte> scratch(linear.workspace_bytes(rows));
  linear.forward(x, rows, linear.in(), y.data(), linear.out(), {kind}, scratch.data());
  return y;
}

}  // namespace

PromptRows prompt_rows(const config::DitConfig& c, const text::Embedding& embedding) {
  SLA2_CHECK(embedding.width == c.text_dim, SLA2_E_MODEL_MISMATCH,
             "prompt: the text encoder gives rows of {} numbers, this model expects {}; use the encoder it was trained with",
             embedding.width, c.text_dim);
  SLA2_CHECK(static_cast<int64_t>(embedding.rows.size()) == embedding.tokens * embedding.width, SLA2_E_ARGUMENT,
             "prompt: {} numbers for {} rows of {}", embedding.rows.size(), embedding.tokens, embedding.width);
  const int64_t keys = prompt_keys(c, embedding.tokens), padding = c.text_len - embedding.tokens;
  PromptRows prompt{keys, std::vector<float>(static_cast<size_t>(keys * c.text_dim), 0.0F), {}};
  std::copy(embedding.rows.begin(), embedding.rows.end(), prompt.rows.begin());
  if (padding > 0) {
    prompt.key_bias.assign(static_cast<size_t>(keys), 0.0F);
    prompt.key_bias.back() = static_cast<float>(std::log(static_cast<double>(padding)));
  }
  return prompt;
}

std::unique_ptr<Prompt> make_prompt(const config::DitConfig& c, const Loader& loader, const text::Embedding& embedding) {
  using Kind = kernels::Epilogue::Kind;
  const PromptRows input = prompt_rows(c, embedding);
  const std::vector<float>& rows = input.rows;
  auto prompt = std::make_unique<Prompt>();
  prompt->keys = input.keys;
  prompt->dim = c.dim;
  prompt->layers = c.layers;
  const int64_t keys = prompt->keys;
  if (!input.key_bias.empty()) {
    prompt->key_bias = AlignedBuffer<float>(input.key_bias.size());
    std::copy(input.key_bias.begin(), input.key_bias.end(), prompt->key_bias.data());
  }
  const AlignedBuffer<float> hidden = apply(loader.linear(spec_text_in(c)), rows.data(), keys, Kind::kGeluTanh);
  const AlignedBuffer<float> context = apply(loader.linear(spec_text_out(c)), hidden.data(), keys, Kind::kStore);

  const int64_t size = keys * c.dim;
  prompt->values = AlignedBuffer<float>(static_cast<size_t>(2 * c.layers * size));
  for (int64_t layer = 0; layer < c.layers; ++layer) {
    float* k = prompt->values.data() + 2 * layer * size;
    const AlignedBuffer<float> norm = loader.vector(block_name(layer, "cross_attn.norm_k.weight"), {c.dim});
    const AlignedBuffer<float> raw = apply(loader.linear(spec_cross(c, layer, "k")), context.data(), keys, Kind::kStore);
    kernels::rms_norm(raw.data(), c.dim, norm.data(), static_cast<float>(c.eps), k, c.dim, keys, c.dim);
    const AlignedBuffer<float> v = apply(loader.linear(spec_cross(c, layer, "v")), context.data(), keys, Kind::kStore);
    std::copy_n(v.data(), size, k + size);
  }
  return prompt;
}

}  // namespace sla2::dit
