// SPDX-License-Identifier: Apache-2.0
// Blocks of any size on synthetic weights: no file, so that what is measured is computing and the memory of the model.
#include "bench_dit.h"

#include <algorithm>
#include <chrono>
#include <iostream>
#include <nlohmann/json.hpp>

#include "dit/dit.h"

namespace sla2::probe {

namespace {

using nlohmann::json;

/// A checkpoint whose numbers are made up when they are read. Shapes are not checked: any question is answered.
class Synthetic final : public weights::Checkpoint {
 public:
  Synthetic(const config::DitConfig& c, DType stored) : path_("synthetic weights") {
    const auto add = [&](const std::string& name, std::vector<int64_t> shape) {
      infos_[name] = {name, stored, std::move(shape), 0, 0};
    };
    const auto linear = [&](const std::string& name, int64_t out, int64_t in) {
      add(name + ".weight", {out, in});
      add(name + ".bias", {out});
    };
    add("patch_embedding.weight", {c.dim, c.in_channels, 1, 2, 2});
    add("patch_embedding.bias", {c.dim});
    linear("time_embedding.0", c.dim, c.freq_dim);
    linear("time_embedding.2", c.dim, c.dim);
    linear("time_projection.1", 6 * c.dim, c.dim);
    linear("text_embedding.0", c.dim, c.text_dim);
    linear("text_embedding.2", c.dim, c.dim);
    linear("head.head", 4 * c.out_channels, c.dim);
    add("head.modulation", {1, 2, c.dim});
    for (int64_t layer = 0; layer < c.layers; ++layer) {
      const std::string block = fmt::format("blocks.{}.", layer);
      add(block + "modulation", {1, 6, c.dim});
      for (const char* part : {"self_attn.", "cross_attn."}) {
        for (const char* which : {"q", "k", "v", "o"}) linear(block + part + which, c.dim, c.dim);
        for (const char* norm : {"norm_q.weight", "norm_k.weight"}) add(block + part + norm, {c.dim});
      }
      add(block + "norm3.weight", {c.dim});
      add(block + "norm3.bias", {c.dim});
      linear(block + "ffn.0", c.ffn_dim, c.dim);
      linear(block + "ffn.2", c.dim, c.ffn_dim);
    }
    config_json_ = json{{"attention_head_dim", c.head_dim}, {"num_attention_heads", c.heads}}.dump();
    identity_.kind = weights::Kind::kWanDit;
    identity_.naming = weights::Naming::kOriginal;
    identity_.variant = "t2v";
  }
  [[nodiscard]] const std::string& path() const noexcept override { return path_; }
  [[nodiscard]] const weights::Identity& identity() const noexcept override { return identity_; }
  [[nodiscard]] bool has(std::string_view name) const noexcept override { return infos_.contains(std::string(name)); }
  [[nodiscard]] const weights::TensorInfo& info(std::string_view name) const override {
    const auto found = infos_.find(std::string(name));
    SLA2_CHECK(found != infos_.end(), SLA2_E_FILE_FORMAT, "{}: no tensor '{}'", path_, name);
    return found->second;
  }
  [[nodiscard]] std::vector<std::string> names() const override {
    std::vector<std::string> all;
    for (const auto& entry : infos_) all.push_back(entry.first);
    return all;
  }
  void read_f32(std::string_view name, std::span<const int64_t>, std::span<float> target) const override {
    fill(name, target, [](float value) { return value; });
  }
  void read_rows_f32(std::string_view name, int64_t, int64_t, std::span<float> target) const override {
    read_f32(name, {}, target);
  }
  void read_bf16(std::string_view name, std::span<const int64_t>, std::span<bf16_t> target) const override {
    fill(name, target, f32_to_bf16);
  }
  void read_raw(std::string_view name, std::span<std::byte> target) const override {
    SLA2_CHECK(info(name).dtype == DType::kF16, SLA2_E_UNSUPPORTED, "{}: raw bytes of fp16 only", path_);
    fill(name, std::span{reinterpret_cast<uint16_t*>(target.data()), target.size() / 2}, f32_to_f16);
  }
  [[nodiscard]] const std::string& config_json() const noexcept override { return config_json_; }
  [[nodiscard]] std::string digest() const override { return "synthetic"; }

 private:
  /// Uniform numbers with the spread of a trained Linear, 1 / sqrt(inputs).
  template <typename T, typename Convert>
  void fill(std::string_view name, std::span<T> target, const Convert& convert) const {
    const float spread = 1.7F / std::sqrt(static_cast<float>(info(name).shape.back()));
    uint32_t state = static_cast<uint32_t>(std::hash<std::string_view>{}(name)) | 1U;
    for (T& value : target) {
      state = state * 1664525U + 1013904223U;
      value = convert((static_cast<float>(state >> 8) / static_cast<float>(1U << 23) - 1.0F) * spread);
    }
  }
  std::string path_, config_json_;
  weights::Identity identity_;
  std::map<std::string, weights::TensorInfo, std::less<>> infos_;
};

struct Arguments {
  config::DitConfig config;
  std::string grid = "5x16x16", stored = "bf16", precision = "auto";
  int repeat = 5, threads = 0, linear_bits = 16;
  int64_t prompt_tokens = 64, token_chunk = Options().token_chunk;
  double sparsity = 0;
  int32_t bits = 16;
  using Options = dit::Options;
};

latent::Grid parse_grid(const std::string& text) {
  latent::Grid grid;
  SLA2_CHECK(std::sscanf(text.c_str(), "%ldx%ldx%ld", &grid.frames, &grid.height, &grid.width) == 3, SLA2_E_ARGUMENT,
             "--grid {}: expected FRAMESxHEIGHTxWIDTH in tokens", text);
  return grid;
}

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2), values.end());
  return values[values.size() / 2];
}

void run(const Arguments& a) {
  set_thread_count(a.threads);
  const DType stored = a.stored == "bf16" ? DType::kBF16 : a.stored == "f16" ? DType::kF16 : DType::kF32;
  dit::Options options;
  options.precision = a.precision == "f32"    ? dit::Precision::kF32
                      : a.precision == "bf16" ? dit::Precision::kBf16
                                              : dit::Precision::kAuto;
  options.token_chunk = a.token_chunk;
  options.linear_bits = a.linear_bits;
  const latent::Grid grid = parse_grid(a.grid);
  const uint64_t before = resident_bytes();
  dit::LayerAttention kind;
  if (a.sparsity > 0) kind.mode = attention::Mode::kSla2, kind.sparsity = a.sparsity;
  kind.bits = a.bits;
  const dit::PlanSummary plan = dit::plan(a.config, grid, a.prompt_tokens, options, {&kind, 1}, stored);
  const CancelToken cancel;
  const auto model = dit::Dit::load(std::make_shared<Synthetic>(a.config, stored), options, cancel, {});
  text::Embedding embedding{a.prompt_tokens, a.config.text_dim, {}};
  embedding.rows.assign(static_cast<size_t>(a.prompt_tokens * a.config.text_dim), 0.5F);
  const auto prompt = model->prepare_prompt(embedding);
  model->set_grid(grid);
  latent::Latent x{a.config.in_channels, grid.frames, 2 * grid.height, 2 * grid.width, {}}, velocity;
  x.values.resize(static_cast<size_t>(x.size()));
  for (size_t i = 0; i < x.values.size(); ++i) x.values[i] = static_cast<float>(i * 7919 % 2003) / 1000.0F - 1.0F;
  const std::vector<dit::LayerAttention> policy(static_cast<size_t>(a.config.layers), kind);

  std::vector<double> blocks, attention, passes;
  for (int i = 0; i <= a.repeat; ++i) {
    dit::ForwardReport report;
    const auto start = std::chrono::steady_clock::now();
    model->forward(x, 500.0F, *prompt, policy, cancel, velocity, &report);
    if (i == 0) continue;  // warm-up
    passes.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
    for (const dit::LayerReport& layer : report.layers) {
      blocks.push_back(layer.seconds);
      attention.push_back(layer.attention_seconds);
    }
  }
  const uint64_t used = peak_resident_bytes() - before;
  std::cout << json{{"tokens", grid.tokens()},
                    {"threads", thread_count()},
                    {"isa", isa_name(active_isa())},
                    {"stored", a.stored},
                    {"block_seconds", median(blocks)},
                    {"block_best_seconds", *std::min_element(blocks.begin(), blocks.end())},
                    {"attention_seconds", median(attention)},
                    {"pass_seconds", median(passes)},
                    {"repeats", a.repeat},
                    {"planned_bytes", plan.total()},
                    {"used_bytes", used},
                    {"peak_bytes", peak_resident_bytes()},
                    {"plan", plan.text}}
                   .dump(2)
            << '\n';
}

}  // namespace

void add_bench(CLI::App& app) {
  auto a = std::make_shared<Arguments>();
  a->config.dim = 1536;
  a->config.heads = 12;
  a->config.ffn_dim = 8960;
  a->config.layers = 2;
  CLI::App* bench = app.add_subcommand("bench", "seconds per block and peak memory on synthetic weights, as JSON");
  bench->add_option("--dim", a->config.dim);
  bench->add_option("--heads", a->config.heads);
  bench->add_option("--ffn", a->config.ffn_dim);
  bench->add_option("--layers", a->config.layers);
  bench->add_option("--grid", a->grid, "tokens, FRAMESxHEIGHTxWIDTH");
  bench->add_option("--stored", a->stored, "f32, f16 or bf16");
  bench->add_option("--precision", a->precision, "auto, f32 or bf16");
  bench->add_option("--linear-bits", a->linear_bits, "16 or 8");
  bench->add_option("--prompt-tokens", a->prompt_tokens);
  bench->add_option("--token-chunk", a->token_chunk);
  bench->add_option("--sparsity", a->sparsity, "0: full attention");
  bench->add_option("--bits", a->bits, "of attention: 16 or 8");
  bench->add_option("--repeat", a->repeat);
  bench->add_option("--threads", a->threads);
  bench->callback([a] {
    a->config.head_dim = a->config.dim / a->config.heads;
    run(*a);
  });
}

}  // namespace sla2::probe
