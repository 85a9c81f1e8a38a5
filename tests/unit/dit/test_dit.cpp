// SPDX-License-Identifier: Apache-2.0
// The static plan of the diffusion transformer, from the configuration alone. Numbers are compared with diffusers in
// tests/python/test_dit.py.
#include <catch2/catch.hpp>

#include "dit/dit.h"
#include "dit/gpu_plan.h"
#include "dit/plan.h"

using namespace sla2;

namespace {

config::DitConfig wan_1_3b() {
  config::DitConfig c;
  c.dim = 1536;
  c.heads = 12;
  c.ffn_dim = 8960;
  c.layers = 30;
  return c;
}

constexpr double kGiB = 1024.0 * 1024.0 * 1024.0;

}  // namespace

TEST_CASE("a GPU refuses a probe with the reason; a layer's words reach the attention room") {
  dit::LayerAttention layer{attention::Mode::kSla2, 0.9};
  CHECK_NOTHROW(dit::check_gpu_attention(layer));
  layer.probe = 0.5;
  CHECK_THROWS_WITH(dit::check_gpu_attention(layer),
                    Catch::Matchers::Contains("probe is 0.5") && Catch::Matchers::Contains("CPU"));
  layer.router = attention::Router::kSparge, layer.rule = attention::Rule::kHybrid, layer.top_p = 0.3, layer.theta = 0.6;
  layer.protect_first = 1, layer.protect_last = 2, layer.protect_near = 3, layer.mix_scale = 0.7, layer.mix_bias = -1;
  layer.mix = attention::Mix::kConst, layer.scope = attention::Scope::kGlobal, layer.smooth_k = false, layer.min_tokens = 9;
  const attention::Config c = dit::self_attention_config(wan_1_3b(), 320, layer, kernels::Compute::kF32);
  CHECK((c.router == layer.router && c.rule == layer.rule && c.top_p == 0.3 && c.theta == 0.6));
  CHECK((c.protect_first == 1 && c.protect_last == 2 && c.protect_near == 3 && c.mix_scale == 0.7 && c.mix_bias == -1));
  CHECK((c.mix == layer.mix && c.scope == layer.scope && !c.smooth_k && c.min_tokens == 9 && c.sparsity == 0.9));
}

TEST_CASE("weights of the 1.3B model stay as narrow as they are stored, without cross k and v and the text MLP") {
  const latent::Grid grid{5, 16, 16};
  dit::Options options;
  options.precision = dit::Precision::kF32;
  const auto narrow = dit::plan(wan_1_3b(), grid, 64, options);
  const auto wide = dit::plan(wan_1_3b(), grid, 64, options, {}, DType::kF32);
  // 1.4190 B parameters, less 30 · 2 · 1536 · 1537 for k and v and 1536 · (4097 + 1537) for the text MLP.
  const double parameters = 1.4190e9 - 30.0 * 2 * 1536 * 1537 - 1536.0 * (4097 + 1537);
  CHECK(static_cast<double>(narrow.weight_bytes) == Approx(2 * parameters).epsilon(0.01));
  CHECK(static_cast<double>(wide.weight_bytes) == Approx(4 * parameters).epsilon(0.01));
  CHECK(narrow.text.find("bf16") != std::string::npos);
}

TEST_CASE("small models are widened once") {
  config::DitConfig c = wan_1_3b();
  c.layers = 2;
  CHECK(dit::choose_holding(c, DType::kBF16, {dit::Precision::kF32}).held == DType::kF32);
  CHECK(dit::choose_holding(wan_1_3b(), DType::kBF16, {dit::Precision::kF32}).held == DType::kBF16);
  CHECK(dit::choose_holding(wan_1_3b(), DType::kF16, {dit::Precision::kF32}).held == DType::kF16);
  CHECK(dit::choose_holding(wan_1_3b(), DType::kF8E4M3, {dit::Precision::kF32}).held == DType::kBF16);
  CHECK(dit::choose_holding(c, DType::kF32, {dit::Precision::kBf16}).held == DType::kBF16);
}

TEST_CASE("chunks bound the FFN, and buffers that are never alive together share memory") {
  const latent::Grid grid{21, 30, 52};  // 480p, 81 frames
  dit::Options options;
  options.precision = dit::Precision::kF32;
  const dit::Holding holding;
  const dit::Activations chunked(wan_1_3b(), holding, grid.tokens(), options.token_chunk);
  const dit::Activations whole(wan_1_3b(), holding, grid.tokens(), grid.tokens());
  const double row = 1536.0 * 4 * static_cast<double>(grid.tokens());
  // x, q, k, v and the attention output live together; the FFN's chunk fits where q, k and v were.
  CHECK(static_cast<double>(chunked.memory.total_bytes()) < 5.2 * row);
  CHECK(static_cast<double>(chunked.memory.total_bytes()) >= 5.0 * row);
  CHECK(chunked.memory.total_bytes() < whole.memory.total_bytes());
  CHECK(static_cast<double>(chunked.memory.total_bytes()) < 1.0 * kGiB);
}

TEST_CASE("padding costs one key") {
  const config::DitConfig c = wan_1_3b();
  CHECK(dit::prompt_keys(c, 60) == 61);
  CHECK(dit::prompt_keys(c, 511) == 512);
  CHECK(dit::prompt_keys(c, 512) == 512);
  CHECK(dit::prompt_keys(c, 700) == 700);
}
