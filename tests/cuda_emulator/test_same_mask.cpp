// SPDX-License-Identifier: Apache-2.0
// The same blocks for the same weights as on the CPU, bit for bit: lists of route() on the host and under the emulator.
#include <catch2/catch.hpp>
#include <random>
#include <vector>

#include "attention/attention.h"
#include "core/core.h"
#include "cuda_emulator/kernels_table.h"

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

}  // namespace

TEST_CASE("routers keep the CPU's blocks, bit for bit") {
  struct Case {
    int64_t query_tokens, key_tokens, dim;
    double sparsity;
    int levels;  ///< values are multiples of 1 / levels: few of them make ties
    bool learned;
  };
  for (const Case& c : {Case{300, 1000, 64, 0.8, 1 << 20, false}, Case{300, 1000, 128, 0.5, 1 << 20, true},
                        Case{200, 700, 64, 0.7, 1, false}, Case{150, 9000, 40, 0.97, 1 << 10, true}}) {
    std::mt19937 random(static_cast<unsigned>(c.key_tokens + c.dim));
    const auto fill = [&](int64_t count) {
      std::normal_distribution<float> normal;
      std::vector<float> x(static_cast<size_t>(count));
      for (float& value : x) value = std::round(normal(random) * static_cast<float>(c.levels)) / static_cast<float>(c.levels);
      return x;
    };
    Config config;
    config.mode = Mode::kSla2;
    config.products = DType::kBF16;
    config.heads = 2, config.kv_heads = 1;
    config.query_tokens = c.query_tokens, config.key_tokens = c.key_tokens, config.head_dim = c.dim;
    config.sparsity = c.sparsity;
    const std::vector<float> q = fill(2 * c.query_tokens * c.dim), k = fill(c.key_tokens * c.dim), w = fill(4 * c.dim * c.dim);
    Forward call;
    call.q = {q.data(), DType::kF32, 2 * c.query_tokens * c.dim, c.query_tokens * c.dim, c.dim};
    call.k = {k.data(), DType::kF32, c.key_tokens * c.dim, c.key_tokens * c.dim, c.dim};
    if (c.learned) {
      call.parameters.router_q = w.data(), call.parameters.router_k = w.data() + 2 * c.dim * c.dim;
      call.parameters.router_heads = 2;
    }
    emulator::EmulatedGpu gpu(80, 163 * 1024);
    const Lists expected = route_with(*Plan::create(config), call), ours = route_with(*Plan::create(config, gpu), call);
    INFO("key tokens " << c.key_tokens << ", channels " << c.dim);
    CHECK(ours == expected);
  }
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
