// SPDX-License-Identifier: Apache-2.0
#include "text/umt5_config.h"

#include "kernels/elementwise.h"

namespace sla2::text {

std::string layer_name(int64_t layer, std::string_view rest) {
  return fmt::format("encoder.block.{}.layer.{}.weight", layer, rest);
}

namespace {

EncoderConfig read_sizes(const weights::Checkpoint& checkpoint) {
  const auto shape_of = [&](const std::string& name, size_t rank) -> const std::vector<int64_t>& {
    const std::vector<int64_t>& shape = checkpoint.info(name).shape;
    SLA2_CHECK(shape.size() == rank, SLA2_E_MODEL_MISMATCH, "{}: tensor '{}' has {} axes, UMT5 has {} there", checkpoint.path(),
               name, shape.size(), rank);
    return shape;
  };
  EncoderConfig config;
  config.vocabulary = shape_of("shared.weight", 2)[0];
  config.d_model = shape_of("shared.weight", 2)[1];
  const std::vector<int64_t>& bias = shape_of(layer_name(0, "0.SelfAttention.relative_attention_bias"), 2);
  config.buckets = bias[0];
  config.heads = bias[1];
  const int64_t inner = shape_of(layer_name(0, "0.SelfAttention.q"), 2)[0];
  SLA2_CHECK(config.heads > 0 && inner > 0 && inner % config.heads == 0 && config.buckets >= 4 && config.buckets % 4 == 0,
             SLA2_E_MODEL_MISMATCH, "{}: {} heads, {} buckets and an attention width of {} make no UMT5", checkpoint.path(),
             config.heads, config.buckets, inner);
  config.d_kv = inner / config.heads;
  config.d_ff = shape_of(layer_name(0, "1.DenseReluDense.wi_0"), 2)[0];
  while (checkpoint.has(layer_name(config.layers, "0.SelfAttention.q"))) ++config.layers;
  return config;
}

/// Every tensor has its place and size before any work begins.
void check_shapes(const weights::Checkpoint& checkpoint, const EncoderConfig& c) {
  const auto check = [&](const std::string& name, const std::vector<int64_t>& expected) {
    const std::vector<int64_t>& shape = checkpoint.info(name).shape;
    SLA2_CHECK(shape == expected, SLA2_E_MODEL_MISMATCH,
               "{}: tensor '{}': expected [{}], got [{}]; not one UMT5 encoder, or a damaged file", checkpoint.path(), name,
               fmt::join(expected, ", "), fmt::join(shape, ", "));
  };
  const int64_t inner = c.heads * c.d_kv;
  for (int64_t layer = 0; layer < c.layers; ++layer) {
    check(layer_name(layer, "0.layer_norm"), {c.d_model});
    for (const char* part : {"q", "k", "v"})
      check(layer_name(layer, fmt::format("0.SelfAttention.{}", part)), {inner, c.d_model});
    check(layer_name(layer, "0.SelfAttention.o"), {c.d_model, inner});
    check(layer_name(layer, "0.SelfAttention.relative_attention_bias"), {c.buckets, c.heads});
    check(layer_name(layer, "1.layer_norm"), {c.d_model});
    for (const char* part : {"wi_0", "wi_1"})
      check(layer_name(layer, fmt::format("1.DenseReluDense.{}", part)), {c.d_ff, c.d_model});
    check(layer_name(layer, "1.DenseReluDense.wo"), {c.d_model, c.d_ff});
  }
  check("encoder.final_layer_norm.weight", {c.d_model});
}

}  // namespace

EncoderConfig read_encoder_config(const weights::Checkpoint& checkpoint) {
  const weights::Identity& identity = checkpoint.identity();
  SLA2_CHECK(identity.kind == weights::Kind::kUmt5, SLA2_E_MODEL_MISMATCH,
             "{}: expected a UMT5 encoder (umt5-xxl for Wan), got: {}; name the right file as text encoder", checkpoint.path(),
             identity.summary);
  const EncoderConfig config = read_sizes(checkpoint);
  check_shapes(checkpoint, config);
  return config;
}

void check_ids(const weights::Checkpoint& checkpoint, const EncoderConfig& config, const std::vector<int32_t>& ids) {
  SLA2_CHECK(!ids.empty() && ids.size() <= kMaxTokens, SLA2_E_ARGUMENT, "text encoder: expected 1 to {} tokens, got {}",
             kMaxTokens, ids.size());
  for (const int32_t id : ids) {
    SLA2_CHECK(id >= 0 && id < config.vocabulary, SLA2_E_MODEL_MISMATCH,
               "{}: token id {} is outside of the vocabulary of {}; the tokenizer belongs to another encoder", checkpoint.path(),
               id, config.vocabulary);
  }
}

void read_token_rows(const weights::Checkpoint& checkpoint, const EncoderConfig& config, const std::vector<int32_t>& ids,
                     std::span<float> target) {
  const auto width = static_cast<size_t>(config.d_model);
  for (size_t row = 0; row < ids.size(); ++row)
    checkpoint.read_rows_f32("shared.weight", ids[row], 1, target.subspan(row * width, width));
}

void check_finite(const weights::Checkpoint& checkpoint, const Embedding& embedding) {
  SLA2_CHECK(kernels::all_finite(embedding.rows.data(), static_cast<int64_t>(embedding.rows.size())), SLA2_E_NUMERIC,
             "{}: the text encoder gives NaN or infinity; the file is damaged, or its fp16 storage overflowed: use a bf16 or "
             "fp32 file",
             checkpoint.path());
}

}  // namespace sla2::text
