// SPDX-License-Identifier: Apache-2.0
// The same blocks for the same weights as on the CPU, bit for bit: lists of route() on the host and under the emulator.
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "attention/attention.h"
#include "core/core.h"
#include "cuda_emulator/kernels_table.h"
#include "kernels/same_exp.h"

namespace sla2::attention {
namespace {

struct Lists {
  std::vector<int32_t> index, count;
  bool operator==(const Lists&) const = default;
};

Lists route_with(Plan& plan, const Forward& call) {
  const auto rows = static_cast<size_t>(plan.config().batch * plan.config().heads * plan.query_blocks());
  Lists lists{std::vector<int32_t>(rows * static_cast<size_t>(plan.max_kept())), std::vector<int32_t>(rows)};
  BlockList out{lists.index.data(), lists.count.data(), plan.max_kept()};
  Forward in = call;
  in.list = &out;
  AlignedBuffer<std::byte> workspace(plan.workspace_bytes());
  plan.route(in, workspace.data());
  return lists;
}

/// Queries, keys and weights whose values are multiples of 1 / levels; with less than four levels scores are tied. One key head
/// for two query heads.
struct Inputs {
  Inputs(const Config& c, int levels, bool learned) : random(static_cast<unsigned>(c.key_tokens + c.head_dim)) {
    const int64_t d = c.head_dim, n = c.query_tokens;
    q = fill(c.heads * n * d, levels), k = fill(c.key_tokens * d, levels), w = fill(2 * c.heads * d * d, levels);
    for (size_t i = 0; i < k.size(); ++i)  // blocks differ in how alike their rows are
      if (static_cast<int64_t>(i) / d / c.block_k % 3 == 0) k[i] += 3;
    if (levels < 4)  // every third block is the same again: with few levels alone, no two of some dozen scores are equal
      for (size_t i = 0, lap = static_cast<size_t>(3 * c.block_k * d); i + lap < k.size(); ++i) k[i + lap] = k[i];
    for (size_t i = 0; i < q.size(); ++i)
      if (static_cast<int64_t>(i) / d % n / c.block_q % 2 == 0) q[i] += 3;
    call.q = {q.data(), DType::kF32, c.heads * n * d, n * d, d};
    call.k = {k.data(), DType::kF32, c.key_tokens * d, c.key_tokens * d, d};
    if (!learned) return;
    call.parameters.router_q = w.data(), call.parameters.router_k = w.data() + c.heads * d * d;
    call.parameters.router_heads = c.heads;
  }
  std::vector<float> fill(int64_t count, int levels) {
    std::normal_distribution<float> normal;
    std::vector<float> x(static_cast<size_t>(count));
    for (float& value : x) value = std::round(normal(random) * static_cast<float>(levels)) / static_cast<float>(levels);
    return x;
  }
  std::mt19937 random;
  std::vector<float> q, k, w;
  Forward call;
};

Config base_config(int64_t query_tokens, int64_t key_tokens, int64_t dim) {
  Config config;
  config.mode = Mode::kSla2;
  config.products = DType::kBF16;
  config.heads = 2, config.kv_heads = 1;
  config.query_tokens = query_tokens, config.key_tokens = key_tokens, config.head_dim = dim;
  return config;
}

/// The same rows, and not all of them alike: a list that never changes would say little.
void check_same(const Config& config, const Forward& call) {
  emulator::EmulatedGpu gpu(80, 163 * 1024);
  const Lists expected = route_with(*Plan::create(config), call), ours = route_with(*Plan::create(config, gpu), call);
  INFO("router " << static_cast<int>(config.router) << ", rule " << static_cast<int>(config.rule) << ", key tokens "
                 << config.key_tokens << ", blocks of " << config.block_k << ", channels " << config.head_dim);
  CHECK(ours == expected);
  const auto all = static_cast<int32_t>((config.key_tokens + config.block_k - 1) / config.block_k);
  CHECK(std::any_of(expected.count.begin(), expected.count.end(), [&](int32_t kept) { return kept < all; }));
}

}  // namespace

TEST_CASE("routers keep the CPU's blocks, bit for bit") {
  struct Case {
    int64_t query_tokens, key_tokens, dim;
    double sparsity;
    int levels;
    bool learned;
  };
  for (const Case& c :
       {Case{300, 1000, 64, 0.8, 1 << 20, false}, Case{300, 1000, 128, 0.5, 1 << 20, true}, Case{200, 700, 64, 0.7, 1, false},
        Case{200, 700, 64, 0.7, 3, false}, Case{150, 9000, 40, 0.97, 1 << 10, true}}) {
    Config config = base_config(c.query_tokens, c.key_tokens, c.dim);
    config.sparsity = c.sparsity;
    check_same(config, Inputs(config, c.levels, c.learned).call);
  }
}

TEST_CASE("every rule cuts where the CPU cuts") {
  for (const int levels : {1 << 20, 1}) {
    Config config = base_config(200, 1300, 64);
    config.block_q = 64, config.block_k = 16, config.sparsity = 0.8;
    const auto check = [&] { check_same(config, Inputs(config, levels, levels > 1).call); };
    config.protect_first = 2, config.protect_last = 1, config.protect_near = 1;
    check();
    config.router = Router::kVsa;
    check();
    config.protect_first = config.protect_last = 0, config.protect_near = -1;
    config.router = Router::kVmoba, config.top_p = 0.35;
    check();
    config.router = Router::kSparge, config.theta = 0.6;
    for (const Rule rule : {Rule::kTopK, Rule::kCdf, Rule::kHybrid}) {
      config.rule = rule;
      config.protect_last = rule == Rule::kCdf ? 1 : 0;
      check();
    }
  }
}

TEST_CASE("the portable exponential is within two units of the library's") {
  for (double x = 0; x > -40; x -= 0.00937) {
    const double expected = std::exp(x);
    CHECK(std::abs(kernels::same_exp<kernels::PlainMath>(x) - expected) <= 2 * std::numeric_limits<double>::epsilon() * expected);
  }
  CHECK(kernels::same_exp<kernels::PlainMath>(0) == 1);
  CHECK(kernels::same_exp<kernels::PlainMath>(-1e9) == 0);
  CHECK(std::isnan(kernels::same_exp<kernels::PlainMath>(std::nan(""))));
}

TEST_CASE("what is not built for a GPU is refused with a reason") {
  emulator::EmulatedGpu gpu(80, 163 * 1024);
  Config config;
  config.heads = 1, config.query_tokens = config.key_tokens = 100, config.head_dim = 64;
  const auto reason = [&] {
    try {
      (void)Plan::create(config, gpu);
    } catch (const Error& error) {
      CHECK(error.status() == SLA2_E_UNSUPPORTED);
      return std::string(error.what());
    }
    return std::string();
  };
  CHECK_THAT(reason(), Catch::Matchers::Contains("products are fp32"));
  config.products = DType::kBF16;
  CHECK(reason().empty());
  config.head_dim = 256;
  CHECK_THAT(reason(), Catch::Matchers::Contains("head_dim is 256"));
  config.head_dim = 64, config.bits = 8, config.fp8_values = true;
  CHECK_THAT(reason(), Catch::Matchers::Contains("fp8_values needs 89"));
}

}  // namespace sla2::attention
