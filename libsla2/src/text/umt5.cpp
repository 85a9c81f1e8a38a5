// SPDX-License-Identifier: Apache-2.0
// The UMT5 encoder (Chung et al. 2023): pre-norm RMSNorm, attention with a relative bias in every layer and no 1/sqrt(d),
// gated gelu_tanh feed-forward, no biases. In: n ids. Out: [n, d_model] fp32. All arithmetic fp32.
// Only the n real tokens are run: masked keys would weigh nothing and padded rows are dropped by Wan, so this is exact.
// Weights pass through a panel of a few megabytes, so that memory does not depend on the size of the encoder.
#include <algorithm>

#include "kernels/elementwise.h"
#include "kernels/gemm.h"
#include "kernels/norm.h"
#include "text/text.h"
#include "text/umt5_attention.h"

namespace sla2::text {
namespace {

constexpr float kEpsilon = 1e-6f;                     // of every UMT5 norm
constexpr int64_t kPanelElements = int64_t{4} << 20;  // 16 MB of weights at a time
constexpr int64_t kMaxTokens = 4096;                  // Wan uses 512; scores grow with the square

std::string layer_name(int64_t layer, std::string_view rest) {
  return fmt::format("encoder.block.{}.layer.{}.weight", layer, rest);
}

EncoderConfig read_config(const weights::Checkpoint& checkpoint) {
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

int64_t panel_rows(int64_t in, int64_t out) { return std::clamp<int64_t>(kPanelElements / in, 1, out); }

/// The buffers of one prompt and the steps on them.
struct Run {
  Run(const weights::Checkpoint& source, const EncoderConfig& config, int64_t tokens, const CancelToken& stop)
      : checkpoint(source),
        c(config),
        cancel(stop),
        n(tokens),
        inner(c.heads * c.d_kv),
        buckets(relative_buckets(n, c.buckets, c.max_distance)),
        zeros(static_cast<size_t>(c.d_ff), 0.0f),
        x(n * c.d_model),
        normed(n * c.d_model),
        q(n * inner),
        k(n * inner),
        v(n * inner),
        mixed(n * inner),
        scores(thread_count() * n * n),
        gate(n * c.d_ff),
        up(n * c.d_ff),
        panel(panel_elements(c)),
        weight(c.d_model) {}

  static int64_t panel_elements(const EncoderConfig& c) {
    const int64_t attention = c.heads * c.d_kv;
    return std::max({panel_rows(c.d_model, attention) * c.d_model, panel_rows(attention, c.d_model) * attention,
                     panel_rows(c.d_model, c.d_ff) * c.d_model, panel_rows(c.d_ff, c.d_model) * c.d_ff});
  }
  static int64_t elements(const EncoderConfig& c, int64_t tokens) {
    return tokens * (3 * c.d_model + 4 * c.heads * c.d_kv + 2 * c.d_ff + thread_count() * tokens) + panel_elements(c) +
           c.d_model + c.d_ff;
  }

  /// y[n, out] = beta * y + in[n, width] Wᵀ, the weight read in panels of rows.
  void project(const std::string& name, const float* in, int64_t width, float* y, int64_t out, float beta) {
    for (int64_t row = 0; row < out; row += panel_rows(width, out)) {
      cancel.check();
      const int64_t rows = std::min(panel_rows(width, out), out - row);
      checkpoint.read_rows_f32(name, row, rows, panel.span().first(rows * width));
      kernels::gemm_f32(n, rows, width, in, width, false, panel.data(), width, true, y + row, out, 1.0f, beta);
    }
  }

  void norm(const std::string& name, float* out) {
    checkpoint.read_f32(name, {}, weight.span());
    kernels::rms_norm(x.data(), c.d_model, weight.data(), kEpsilon, out, c.d_model, n, c.d_model);
  }

  void attention(int64_t layer) {
    norm(layer_name(layer, "0.layer_norm"), normed.data());
    project(layer_name(layer, "0.SelfAttention.q"), normed.data(), c.d_model, q.data(), inner, 0.0f);
    project(layer_name(layer, "0.SelfAttention.k"), normed.data(), c.d_model, k.data(), inner, 0.0f);
    project(layer_name(layer, "0.SelfAttention.v"), normed.data(), c.d_model, v.data(), inner, 0.0f);
    std::vector<float> bias(c.buckets * c.heads);  // [buckets, heads]
    checkpoint.read_f32(layer_name(layer, "0.SelfAttention.relative_attention_bias"), {}, bias);
    umt5_attention({n, c.heads, c.d_kv}, q.data(), k.data(), v.data(), bias.data(), buckets, scores.data(), mixed.data());
    project(layer_name(layer, "0.SelfAttention.o"), mixed.data(), inner, x.data(), c.d_model, 1.0f);
  }

  void feed_forward(int64_t layer) {
    norm(layer_name(layer, "1.layer_norm"), normed.data());
    project(layer_name(layer, "1.DenseReluDense.wi_0"), normed.data(), c.d_model, gate.data(), c.d_ff, 0.0f);
    project(layer_name(layer, "1.DenseReluDense.wi_1"), normed.data(), c.d_model, up.data(), c.d_ff, 0.0f);
    parallel_for(n, [&](int64_t row, int) {
      float* g = gate.data() + row * c.d_ff;
      const float* u = up.data() + row * c.d_ff;
      kernels::elementwise().bias_gelu_tanh(g, zeros.data(), g, static_cast<size_t>(c.d_ff));
      for (int64_t column = 0; column < c.d_ff; ++column) g[column] *= u[column];
    });
    project(layer_name(layer, "1.DenseReluDense.wo"), gate.data(), c.d_ff, x.data(), c.d_model, 1.0f);
  }

  const weights::Checkpoint& checkpoint;
  const EncoderConfig& c;
  const CancelToken& cancel;
  const int64_t n, inner;
  const std::vector<int32_t> buckets;
  const std::vector<float> zeros;
  AlignedBuffer<float> x, normed;                        // [n, d_model]
  AlignedBuffer<float> q, k, v, mixed;                   // [n, heads*d_kv]
  AlignedBuffer<float> scores, gate, up, panel, weight;  // [threads, n, n], [n, d_ff], [n, d_ff], one panel, [d_model]
};

class StreamedEncoder final : public Umt5Encoder {
 public:
  explicit StreamedEncoder(std::shared_ptr<const weights::Checkpoint> checkpoint)
      : checkpoint_(std::move(checkpoint)), config_(read_config(*checkpoint_)) {
    check_shapes(*checkpoint_, config_);
  }

  [[nodiscard]] const EncoderConfig& config() const noexcept override { return config_; }

  Embedding encode(const std::vector<int32_t>& ids, const CancelToken& cancel) const override {
    check_ids(ids);
    Run run(*checkpoint_, config_, static_cast<int64_t>(ids.size()), cancel);
    for (size_t row = 0; row < ids.size(); ++row) {
      checkpoint_->read_rows_f32("shared.weight", ids[row], 1, run.x.span().subspan(row * config_.d_model, config_.d_model));
    }
    for (int64_t layer = 0; layer < config_.layers; ++layer) {
      run.attention(layer);
      run.feed_forward(layer);
    }
    Embedding embedding{run.n, config_.d_model, std::vector<float>(run.x.size())};
    run.norm("encoder.final_layer_norm.weight", embedding.rows.data());
    SLA2_CHECK(kernels::all_finite(embedding.rows.data(), static_cast<int64_t>(embedding.rows.size())), SLA2_E_NUMERIC,
               "{}: the text encoder gives NaN or infinity; the file is damaged, or its fp16 storage overflowed: use a bf16 or "
               "fp32 file",
               checkpoint_->path());
    return embedding;
  }

  [[nodiscard]] uint64_t working_bytes(int64_t tokens) const noexcept override {
    return static_cast<uint64_t>(Run::elements(config_, tokens)) * sizeof(float);
  }

 private:
  void check_ids(const std::vector<int32_t>& ids) const {
    SLA2_CHECK(!ids.empty() && ids.size() <= kMaxTokens, SLA2_E_ARGUMENT, "text encoder: expected 1 to {} tokens, got {}",
               kMaxTokens, ids.size());
    for (const int32_t id : ids) {
      SLA2_CHECK(id >= 0 && id < config_.vocabulary, SLA2_E_MODEL_MISMATCH,
                 "{}: token id {} is outside of the vocabulary of {}; the tokenizer belongs to another encoder",
                 checkpoint_->path(), id, config_.vocabulary);
    }
  }

  std::shared_ptr<const weights::Checkpoint> checkpoint_;
  EncoderConfig config_;
};

}  // namespace

std::unique_ptr<Umt5Encoder> Umt5Encoder::create(std::shared_ptr<const weights::Checkpoint> checkpoint) {
  SLA2_CHECK(checkpoint != nullptr, SLA2_E_INTERNAL, "text encoder: no checkpoint");
  const weights::Identity& identity = checkpoint->identity();
  SLA2_CHECK(identity.kind == weights::Kind::kUmt5, SLA2_E_MODEL_MISMATCH,
             "{}: expected a UMT5 encoder (umt5-xxl for Wan), got: {}; name the right file as text encoder", checkpoint->path(),
             identity.summary);
  return std::make_unique<StreamedEncoder>(std::move(checkpoint));
}

}  // namespace sla2::text
