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

/// One prompt on its way through the layers.
struct Prompt {
  Prompt(const EncoderConfig& c, int64_t tokens)
      : n(tokens),
        buckets(relative_buckets(n, c.buckets, c.max_distance)),
        x(n * c.d_model),
        normed(n * c.d_model),
        q(n * c.heads * c.d_kv),
        k(q.size()),
        v(q.size()),
        mixed(q.size()),
        gate(n * c.d_ff),
        up(n * c.d_ff) {}
  /// fp32 numbers of a prompt, its result included.
  static int64_t elements(const EncoderConfig& c, int64_t tokens) {
    return tokens * (3 * c.d_model + 4 * c.heads * c.d_kv + 2 * c.d_ff);
  }

  const int64_t n;
  const std::vector<int32_t> buckets;
  AlignedBuffer<float> x, normed;       // [n, d_model]
  AlignedBuffer<float> q, k, v, mixed;  // [n, heads*d_kv]
  AlignedBuffer<float> gate, up;        // [n, d_ff]
};
using Rows = AlignedBuffer<float> Prompt::*;

/// All prompts through a layer together: a weight is read once, whatever their number. Each prompt has its own products, so its
/// bits do not depend on the others.
class Run {
 public:
  Run(const weights::Checkpoint& source, const EncoderConfig& config, std::span<const std::vector<int32_t>> ids,
      const CancelToken& stop)
      : checkpoint_(source),
        c_(config),
        cancel_(stop),
        panel_(panel_elements(config)),
        weight_(config.d_model),
        zeros_(config.d_ff) {
    std::fill_n(zeros_.data(), zeros_.size(), 0.0f);
    int64_t longest = 0;
    prompts_.reserve(ids.size());
    for (const std::vector<int32_t>& prompt : ids) {
      prompts_.emplace_back(c_, static_cast<int64_t>(prompt.size()));
      read_token_rows(checkpoint_, c_, prompt, prompts_.back().x.span());
      longest = std::max(longest, prompts_.back().n);
    }
    scores_ = AlignedBuffer<float>(thread_count() * longest * longest);
  }

  static int64_t elements(const EncoderConfig& c, std::span<const int64_t> tokens) {
    int64_t sum = panel_elements(c) + c.d_model + c.d_ff, longest = 0;
    for (const int64_t n : tokens) sum += Prompt::elements(c, n), longest = std::max(longest, n);
    return sum + thread_count() * longest * longest;
  }

  void layer(int64_t index) {
    attention(index);
    feed_forward(index);
  }

  std::vector<Embedding> finish() {
    norm("encoder.final_layer_norm.weight");
    std::vector<Embedding> embeddings;
    for (const Prompt& p : prompts_) {
      embeddings.push_back({p.n, c_.d_model, std::vector<float>(p.normed.data(), p.normed.data() + p.normed.size())});
      check_finite(checkpoint_, embeddings.back());
    }
    return embeddings;
  }

 private:
  static int64_t panel_elements(const EncoderConfig& c) {
    const int64_t attention = c.heads * c.d_kv;
    return std::max({panel_rows(c.d_model, attention) * c.d_model, panel_rows(attention, c.d_model) * attention,
                     panel_rows(c.d_model, c.d_ff) * c.d_model, panel_rows(c.d_ff, c.d_model) * c.d_ff});
  }

  /// y[n, out] = beta * y + in[n, width] Wᵀ of every prompt, the weight read in panels of rows.
  void project(const std::string& name, Rows in, int64_t width, Rows y, int64_t out, float beta) {
    for (int64_t row = 0; row < out; row += panel_rows(width, out)) {
      cancel_.check();
      const int64_t rows = std::min(panel_rows(width, out), out - row);
      checkpoint_.read_rows_f32(name, row, rows, panel_.span().first(rows * width));
      for (Prompt& p : prompts_)
        kernels::gemm_f32(p.n, rows, width, (p.*in).data(), width, false, panel_.data(), width, true, (p.*y).data() + row, out,
                          1.0f, beta);
    }
  }

  /// normed = RMSNorm(x)
  void norm(const std::string& name) {
    checkpoint_.read_f32(name, {}, weight_.span());
    for (Prompt& p : prompts_)
      kernels::rms_norm(p.x.data(), c_.d_model, weight_.data(), kNormEpsilon, p.normed.data(), c_.d_model, p.n, c_.d_model);
  }

  void attention(int64_t layer) {
    const int64_t inner = c_.heads * c_.d_kv;
    norm(layer_name(layer, "0.layer_norm"));
    project(layer_name(layer, "0.SelfAttention.q"), &Prompt::normed, c_.d_model, &Prompt::q, inner, 0.0f);
    project(layer_name(layer, "0.SelfAttention.k"), &Prompt::normed, c_.d_model, &Prompt::k, inner, 0.0f);
    project(layer_name(layer, "0.SelfAttention.v"), &Prompt::normed, c_.d_model, &Prompt::v, inner, 0.0f);
    std::vector<float> bias(c_.buckets * c_.heads);  // [buckets, heads]
    checkpoint_.read_f32(layer_name(layer, "0.SelfAttention.relative_attention_bias"), {}, bias);
    for (Prompt& p : prompts_)
      umt5_attention({p.n, c_.heads, c_.d_kv}, p.q.data(), p.k.data(), p.v.data(), bias.data(), p.buckets, scores_.data(),
                     p.mixed.data());
    project(layer_name(layer, "0.SelfAttention.o"), &Prompt::mixed, inner, &Prompt::x, c_.d_model, 1.0f);
  }

  void feed_forward(int64_t layer) {
    norm(layer_name(layer, "1.layer_norm"));
    project(layer_name(layer, "1.DenseReluDense.wi_0"), &Prompt::normed, c_.d_model, &Prompt::gate, c_.d_ff, 0.0f);
    project(layer_name(layer, "1.DenseReluDense.wi_1"), &Prompt::normed, c_.d_model, &Prompt::up, c_.d_ff, 0.0f);
    for (Prompt& p : prompts_)
      parallel_for(p.n, [&](int64_t row, int) {
        float* g = p.gate.data() + row * c_.d_ff;
        const float* u = p.up.data() + row * c_.d_ff;
        kernels::elementwise().bias_gelu_tanh(g, zeros_.data(), g, static_cast<size_t>(c_.d_ff));
        for (int64_t column = 0; column < c_.d_ff; ++column) g[column] *= u[column];
      });
    project(layer_name(layer, "1.DenseReluDense.wo"), &Prompt::gate, c_.d_ff, &Prompt::x, c_.d_model, 1.0f);
  }

  const weights::Checkpoint& checkpoint_;
  const EncoderConfig& c_;
  const CancelToken& cancel_;
  std::vector<Prompt> prompts_;
  AlignedBuffer<float> scores_;                  // [threads, n, n] of the longest
  AlignedBuffer<float> panel_, weight_, zeros_;  // one panel, [d_model], [d_ff]
};

class StreamedEncoder final : public Umt5Encoder {
 public:
  explicit StreamedEncoder(std::shared_ptr<const weights::Checkpoint> checkpoint)
      : checkpoint_(std::move(checkpoint)), config_(read_encoder_config(*checkpoint_)) {}

  [[nodiscard]] const EncoderConfig& config() const noexcept override { return config_; }

  std::vector<Embedding> encode_all(std::span<const std::vector<int32_t>> prompts, const CancelToken& cancel,
                                    const std::function<void(double)>& on_progress) const override {
    for (const std::vector<int32_t>& ids : prompts) check_ids(*checkpoint_, config_, ids);
    if (prompts.empty()) return {};
    Run run(*checkpoint_, config_, prompts, cancel);
    for (int64_t layer = 0; layer < config_.layers; ++layer) {
      run.layer(layer);
      if (on_progress) on_progress(static_cast<double>(layer + 1) / static_cast<double>(config_.layers));
    }
    return run.finish();
  }

  [[nodiscard]] uint64_t working_bytes(std::span<const int64_t> tokens) const noexcept override {
    return static_cast<uint64_t>(Run::elements(config_, tokens)) * sizeof(float);
  }

 private:
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
