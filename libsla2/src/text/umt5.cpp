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
#include "text/umt5_config.h"

namespace sla2::text {
namespace {

constexpr int64_t kPanelElements = int64_t{4} << 20;  // 16 MB of weights at a time

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
    kernels::rms_norm(x.data(), c.d_model, weight.data(), kNormEpsilon, out, c.d_model, n, c.d_model);
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
      : checkpoint_(std::move(checkpoint)), config_(read_encoder_config(*checkpoint_)) {}

  [[nodiscard]] const EncoderConfig& config() const noexcept override { return config_; }

  std::vector<Embedding> encode_all(std::span<const std::vector<int32_t>> prompts, const CancelToken& cancel,
                                    const std::function<void(double)>& on_progress) const override {
    std::vector<Embedding> embeddings;
    for (const std::vector<int32_t>& ids : prompts) {
      embeddings.push_back(encode_one(ids, cancel));
      if (on_progress) on_progress(static_cast<double>(embeddings.size()) / static_cast<double>(prompts.size()));
    }
    return embeddings;
  }

  [[nodiscard]] uint64_t working_bytes(int64_t tokens) const noexcept override {
    return static_cast<uint64_t>(Run::elements(config_, tokens)) * sizeof(float);
  }

 private:
  [[nodiscard]] Embedding encode_one(const std::vector<int32_t>& ids, const CancelToken& cancel) const {
    check_ids(*checkpoint_, config_, ids);
    Run run(*checkpoint_, config_, static_cast<int64_t>(ids.size()), cancel);
    read_token_rows(*checkpoint_, config_, ids, run.x.span());
    for (int64_t layer = 0; layer < config_.layers; ++layer) {
      run.attention(layer);
      run.feed_forward(layer);
    }
    Embedding embedding{run.n, config_.d_model, std::vector<float>(run.x.size())};
    run.norm("encoder.final_layer_norm.weight", embedding.rows.data());
    check_finite(*checkpoint_, embedding);
    return embedding;
  }

  std::shared_ptr<const weights::Checkpoint> checkpoint_;
  EncoderConfig config_;
};

}  // namespace

std::unique_ptr<Umt5Encoder> Umt5Encoder::create(std::shared_ptr<const weights::Checkpoint> checkpoint) {
  SLA2_CHECK(checkpoint != nullptr, SLA2_E_INTERNAL, "text encoder: no checkpoint");
  return std::make_unique<StreamedEncoder>(std::move(checkpoint));
}

Embedding Umt5Encoder::encode(const std::vector<int32_t>& ids, const CancelToken& cancel) const {
  return std::move(encode_all({&ids, 1}, cancel, {}).front());
}

}  // namespace sla2::text
