// SPDX-License-Identifier: Apache-2.0
// umt5.cpp on a GPU. Rows of all prompts lie one after the other, [rows, d_model] fp32, and go through each layer together; only
// attention knows where a prompt ends. Two places on the GPU take turns: a layer is read and copied while the one before
// computes. Products read rows as two bf16 numbers each (device/text_ops.h) and weights as bf16: a layer's copy takes many times
// as long.
#include <numeric>

#include "device/device.h"
#include "text/text.h"
#include "text/umt5_attention.h"
#include "text/umt5_config.h"

namespace sla2::text {
namespace {

constexpr int kPlaces = 2;
constexpr double kMiB = 1024.0 * 1024.0;
constexpr const char* kProductParts[] = {"0.SelfAttention.q",  "0.SelfAttention.k",     "0.SelfAttention.v",
                                         "0.SelfAttention.o",  "1.DenseReluDense.wi_0", "1.DenseReluDense.wi_1",
                                         "1.DenseReluDense.wo"};

uint64_t floats(int64_t count) { return static_cast<uint64_t>(count) * sizeof(float); }
uint64_t narrow(int64_t count) { return static_cast<uint64_t>(count) * sizeof(bf16_t); }

/// Where a layer's tensors lie in its stretch; q, k, v are one weight, and wi_0, wi_1.
struct LayerPlaces {
  explicit LayerPlaces(const EncoderConfig& c) : inner(c.heads * c.d_kv) {
    device::Stretch stretch;
    qkv = stretch.take(narrow(3 * inner * c.d_model));
    out = stretch.take(narrow(c.d_model * inner));
    gate_up = stretch.take(narrow(2 * c.d_ff * c.d_model));
    down = stretch.take(narrow(c.d_model * c.d_ff));
    attention_norm = stretch.take(floats(c.d_model));
    ffn_norm = stretch.take(floats(c.d_model));
    bias = stretch.take(floats(c.buckets * c.heads));
    bytes = stretch.bytes();
  }
  int64_t inner;
  uint64_t qkv = 0, out = 0, gate_up = 0, down = 0, attention_norm = 0, ffn_norm = 0, bias = 0, bytes = 0;
};

/// A layer into this machine's memory as the GPU will have it.
void read_layer(const weights::Checkpoint& checkpoint, const EncoderConfig& c, int64_t layer, const LayerPlaces& at,
                std::byte* base) {
  const int64_t attention = at.inner * c.d_model, ffn = c.d_ff * c.d_model;
  const struct {
    uint64_t place;
    int64_t count;
  } places[] = {{at.qkv, attention},
                {at.qkv + narrow(attention), attention},
                {at.qkv + narrow(2 * attention), attention},
                {at.out, attention},
                {at.gate_up, ffn},
                {at.gate_up + narrow(ffn), ffn},
                {at.down, ffn}};
  static_assert(std::size(places) == std::size(kProductParts));
  for (size_t i = 0; i < std::size(places); ++i)
    checkpoint.read_bf16(layer_name(layer, kProductParts[i]), {},
                         {reinterpret_cast<bf16_t*>(base + places[i].place), static_cast<size_t>(places[i].count)});
  const auto vector = [&](const char* part, uint64_t place, int64_t count) {
    checkpoint.read_f32(layer_name(layer, part), {}, {reinterpret_cast<float*>(base + place), static_cast<size_t>(count)});
  };
  vector("0.layer_norm", at.attention_norm, c.d_model);
  vector("1.layer_norm", at.ffn_norm, c.d_model);
  vector("0.SelfAttention.relative_attention_bias", at.bias, c.buckets * c.heads);
}

/// The activations of `rows` rows; split ones have their high numbers first, then the low ones.
struct Activations {
  enum Step : int { kAttentionNorm, kQkv, kAttention, kOut, kFfnNorm, kUp, kGate, kDown };
  Activations(const EncoderConfig& c, int64_t rows) {
    const int64_t inner = c.heads * c.d_kv;
    const auto add = [&](const char* name, int64_t width, Step first, Step last) {
      return memory.add(name, floats(rows * width), first, last);  // split numbers have 4 bytes too
    };
    x = add("residual stream x", c.d_model, kAttentionNorm, kDown);
    attention_rows = add("normed rows", c.d_model, kAttentionNorm, kQkv);
    qkv = add("q, k, v", 3 * inner, kQkv, kAttention);
    mixed = add("attention output", inner, kAttention, kOut);
    ffn_rows = add("normed rows", c.d_model, kFfnNorm, kUp);
    hidden = add("FFN gate and up", 2 * c.d_ff, kUp, kGate);
    gated = add("FFN hidden rows", c.d_ff, kGate, kDown);
    memory.solve();
  }
  MemoryPlan memory;
  size_t x = 0, attention_rows = 0, qkv = 0, mixed = 0, ffn_rows = 0, hidden = 0, gated = 0;
};

/// What does not change from layer to layer: the final norm's weight and each prompt's buckets.
struct Tables {
  Tables(const EncoderConfig& c, std::span<const int64_t> tokens) {
    device::Stretch stretch;
    final_norm = stretch.take(floats(c.d_model));
    for (const int64_t n : tokens) buckets.push_back(stretch.take(static_cast<uint64_t>(2 * n - 1) * sizeof(int32_t)));
    bytes = stretch.bytes();
  }
  uint64_t final_norm = 0, bytes = 0;
  std::vector<uint64_t> buckets;
};

void check_widths(const EncoderConfig& c) {
  for (const int64_t width : {c.d_model, c.heads * c.d_kv, c.d_ff})
    SLA2_CHECK(width % device::kWidthStep == 0, SLA2_E_UNSUPPORTED,
               "text encoder on a GPU: a width of {}; the kernels need a multiple of {}: run it on the CPU", width,
               device::kWidthStep);
}

/// One call of encode_all: memory, streams, and a layer's work for all prompts.
class GpuRun {
 public:
  GpuRun(device::Gpu& gpu, const weights::Checkpoint& checkpoint, const EncoderConfig& config, std::span<const int64_t> tokens,
         device::LayerStore::Fill fill)
      : gpu_(gpu),
        c_(config),
        tokens_(tokens),
        rows_(std::accumulate(tokens.begin(), tokens.end(), int64_t{0})),
        places_(config),
        plan_(config, rows_),
        table_places_(config, tokens),
        ops_(gpu),
        text_ops_(gpu, ops_),
        arena_(gpu, plan_.memory.total_bytes()),
        tables_(gpu, table_places_.bytes),
        compute_(gpu) {
    ops_.use_stream(compute_.get());
    layers_ = device::LayerStore::passing(gpu_, compute_.get(), c_.layers, places_.bytes, kPlaces, std::move(fill));
    std::vector<float> norm(static_cast<size_t>(c_.d_model));
    checkpoint.read_f32("encoder.final_layer_norm.weight", {}, norm);
    gpu_.copy_in(tables_.at(table_places_.final_norm), norm.data(), floats(c_.d_model));
    for (size_t i = 0; i < tokens_.size(); ++i) {
      const std::vector<int32_t> buckets = relative_buckets(tokens_[i], c_.buckets, c_.max_distance);
      gpu_.copy_in(tables_.at(table_places_.buckets[i]), buckets.data(), buckets.size() * sizeof(int32_t));
    }
  }
  ~GpuRun() {
    try {
      gpu_.wait(compute_.get());
    } catch (const Error&) {  // the call has failed and said so
    }
  }
  GpuRun(const GpuRun&) = delete;
  GpuRun& operator=(const GpuRun&) = delete;

  /// rows [rows, d_model] in: the embedding table's; out: the context.
  void run(std::vector<float>& rows, const std::function<void(int64_t layers)>& layer_queued) {
    gpu_.copy_in(x(), rows.data(), floats(rows_ * c_.d_model));
    layers_->begin();
    for (int64_t layer = 0; layer < c_.layers; ++layer) {
      const std::byte* const weights = layers_->fetch(layer);
      attention(weights);
      feed_forward(weights);
      layers_->done(layer);
      layer_queued(layer + 1);
    }
    text_ops_.norm(x(), rows_, c_.d_model, tables_.at<float>(table_places_.final_norm), kNormEpsilon, x());
    gpu_.wait(compute_.get());
    gpu_.copy_out(rows.data(), x(), floats(rows_ * c_.d_model));
  }

 private:
  [[nodiscard]] float* wide(size_t index) const { return arena_.at<float>(plan_.memory.offset(index)); }
  [[nodiscard]] float* x() const { return wide(plan_.x); }
  [[nodiscard]] cuda::SplitRows split(size_t index, int64_t width, int64_t first_row = 0) const {
    auto* const high = reinterpret_cast<uint16_t*>(wide(index)) + first_row * width;
    return {high, high + rows_ * width};
  }
  static device::LinearWeight weight(const std::byte* layer, uint64_t place, int64_t in, int64_t out) {
    return {layer + place, nullptr, nullptr, in, out};
  }
  static const float* vector(const std::byte* layer, uint64_t place) { return reinterpret_cast<const float*>(layer + place); }

  void attention(const std::byte* layer) {
    const int64_t inner = places_.inner;
    const cuda::SplitRows normed = split(plan_.attention_rows, c_.d_model);
    text_ops_.norm(x(), rows_, c_.d_model, vector(layer, places_.attention_norm), kNormEpsilon, normed);
    text_ops_.linear(weight(layer, places_.qkv, c_.d_model, 3 * inner), normed, rows_, wide(plan_.qkv), false);
    int64_t first = 0;
    for (size_t i = 0; i < tokens_.size(); first += tokens_[i++])
      text_ops_.attention({wide(plan_.qkv) + first * 3 * inner, vector(layer, places_.bias),
                           tables_.at<int32_t>(table_places_.buckets[i]), split(plan_.mixed, inner, first),
                           static_cast<int32_t>(tokens_[i]), static_cast<int32_t>(c_.heads), static_cast<int32_t>(c_.d_kv)});
    text_ops_.linear(weight(layer, places_.out, inner, c_.d_model), split(plan_.mixed, inner), rows_, x(), true);
  }

  void feed_forward(const std::byte* layer) {
    const cuda::SplitRows normed = split(plan_.ffn_rows, c_.d_model), gated = split(plan_.gated, c_.d_ff);
    text_ops_.norm(x(), rows_, c_.d_model, vector(layer, places_.ffn_norm), kNormEpsilon, normed);
    text_ops_.linear(weight(layer, places_.gate_up, c_.d_model, 2 * c_.d_ff), normed, rows_, wide(plan_.hidden), false);
    text_ops_.gate(wide(plan_.hidden), rows_, c_.d_ff, gated);
    text_ops_.linear(weight(layer, places_.down, c_.d_ff, c_.d_model), gated, rows_, x(), true);
  }

  device::Gpu& gpu_;
  const EncoderConfig& c_;
  std::span<const int64_t> tokens_;
  int64_t rows_;
  LayerPlaces places_;
  Activations plan_;
  Tables table_places_;
  device::Ops ops_;
  device::TextOps text_ops_;
  device::Buffer arena_, tables_;
  device::Stream compute_;
  std::unique_ptr<device::LayerStore> layers_;
};

class GpuEncoder final : public Umt5Encoder {
 public:
  GpuEncoder(device::Gpu& gpu, std::shared_ptr<const weights::Checkpoint> checkpoint)
      : gpu_(gpu), checkpoint_(std::move(checkpoint)), config_(read_encoder_config(*checkpoint_)) {
    check_widths(config_);
  }

  [[nodiscard]] const EncoderConfig& config() const noexcept override { return config_; }
  [[nodiscard]] uint64_t working_bytes(std::span<const int64_t> tokens) const noexcept override {
    const int64_t rows = std::accumulate(tokens.begin(), tokens.end(), int64_t{0});
    return kPlaces * LayerPlaces(config_).bytes + floats(rows * config_.d_model);
  }

  std::vector<Embedding> encode_all(std::span<const std::vector<int32_t>> prompts, const CancelToken& cancel,
                                    const std::function<void(double)>& on_progress) const override {
    std::vector<int64_t> tokens;
    std::vector<int32_t> all;
    for (const std::vector<int32_t>& ids : prompts) {
      check_ids(*checkpoint_, config_, ids);
      tokens.push_back(static_cast<int64_t>(ids.size()));
      all.insert(all.end(), ids.begin(), ids.end());
    }
    if (prompts.empty()) return {};
    (void)plan_on(gpu_, config_, tokens);  // says what is not supported
    GpuRun run(gpu_, *checkpoint_, config_, tokens, [&](int64_t layer, std::byte* target) {
      cancel.check();
      read_layer(*checkpoint_, config_, layer, LayerPlaces(config_), target);
    });
    const auto width = static_cast<size_t>(config_.d_model);
    std::vector<float> rows(all.size() * width);
    read_token_rows(*checkpoint_, config_, all, rows);
    run.run(rows, [&](int64_t layers) {
      cancel.check();
      if (on_progress) on_progress(static_cast<double>(layers) / static_cast<double>(config_.layers));
    });
    std::vector<Embedding> embeddings;
    auto from = rows.begin();
    for (const int64_t n : tokens) {
      const auto to = from + n * config_.d_model;
      embeddings.push_back({n, config_.d_model, std::vector<float>(from, to)});
      check_finite(*checkpoint_, embeddings.back());
      from = to;
    }
    return embeddings;
  }

 private:
  device::Gpu& gpu_;
  std::shared_ptr<const weights::Checkpoint> checkpoint_;
  EncoderConfig config_;
};

}  // namespace

GpuEncoderPlan plan_on(device::Gpu& gpu, const EncoderConfig& c, std::span<const int64_t> tokens) {
  check_widths(c);
  const int64_t most = device::TextOps::most_tokens(gpu, c.d_kv),
                rows = std::accumulate(tokens.begin(), tokens.end(), int64_t{0});
  for (const int64_t n : tokens)
    SLA2_CHECK(
        n <= most, SLA2_E_UNSUPPORTED,
        "text encoder on a GPU: a prompt of {} tokens; its attention keeps at most {} with heads of {}: shorten it, or run "
        "on the CPU",
        n, most, c.d_kv);
  const uint64_t layer = LayerPlaces(c).bytes, tables = Tables(c, tokens).bytes;
  const Activations activations(c, rows);
  const auto mib = [](uint64_t bytes) { return static_cast<double>(bytes) / kMiB; };
  GpuEncoderPlan plan;
  plan.pinned_bytes = kPlaces * layer;
  plan.device_bytes = kPlaces * layer + tables + activations.memory.total_bytes();
  plan.text = fmt::format(
      "weights on the GPU: {:.1f} MiB, 2 of {} layers of {:.1f} MiB, read anew for each job\n"
      "tables: {:.1f} MiB\nactivations: {:.1f} MiB for {} tokens of {} prompt{}\n{}",
      mib(kPlaces * layer), c.layers, mib(layer), mib(tables), mib(activations.memory.total_bytes()), rows, tokens.size(),
      tokens.size() == 1 ? "" : "s", activations.memory.to_text());
  return plan;
}

std::string embedding_digest(const weights::Checkpoint& checkpoint, const std::string& digest, bool on_gpu) {
  if (!on_gpu) return digest;
  for (int64_t layer = 0; checkpoint.has(layer_name(layer, kProductParts[0])); ++layer)
    for (const char* part : kProductParts)
      if (checkpoint.info(layer_name(layer, part)).dtype != DType::kBF16) return digest + ", weights as bf16";
  return digest;
}

std::unique_ptr<Umt5Encoder> Umt5Encoder::create_on(device::Gpu& gpu, std::shared_ptr<const weights::Checkpoint> checkpoint) {
  SLA2_CHECK(checkpoint != nullptr, SLA2_E_INTERNAL, "text encoder: no checkpoint");
  return std::make_unique<GpuEncoder>(gpu, std::move(checkpoint));
}

}  // namespace sla2::text
