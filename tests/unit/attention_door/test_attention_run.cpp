// SPDX-License-Identifier: Apache-2.0
// sla2_attention_run, _route, _blocks and the token orders as a C program sees them.
#include <sla2/attention.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "api/guard.h"
#include "core/core.h"

namespace {

constexpr int64_t kHeads = 4, kKeyHeads = 2, kQueries = 150, kKeys = 200, kDim = 40;

/// fp32 memory and its description.
struct Array {
  sla2::AlignedBuffer<float> data;
  sla2_tensor tensor{};
  Array(std::vector<int64_t> shape, float salt) : data(count(shape)) {
    REQUIRE(sla2_tensor_init(&tensor, sizeof tensor) == SLA2_OK);
    REQUIRE(sla2_tensor_set_contiguous(&tensor, data.data(), SLA2_DTYPE_FLOAT, 32, static_cast<int32_t>(shape.size()),
                                       shape.data()) == SLA2_OK);
    for (size_t i = 0; i < count(shape); ++i) data[i] = std::sin(static_cast<float>(i) * salt);
  }
  static size_t count(const std::vector<int64_t>& shape) {
    size_t n = 1;
    for (const int64_t extent : shape) n *= static_cast<size_t>(extent);
    return n;
  }
};

struct Setup {
  sla2_attention_config config{};
  sla2_attention* plan = nullptr;
  Array q{{1, kHeads, kQueries, kDim}, 1.7F}, k{{1, kKeyHeads, kKeys, kDim}, 0.9F}, v{{1, kKeyHeads, kKeys, kDim}, 0.3F},
      out{{1, kHeads, kQueries, kDim}, 0}, lse{{1, kHeads, kQueries}, 0};
  sla2_qkv qkv{};
  sla2_attention_params params{};
  sla2_attention_outputs outputs{};
  sla2_block_list list{};
  int64_t query_blocks = 0, key_blocks = 0, max_kept = 0;
  std::vector<int32_t> index, count;
  sla2::AlignedBuffer<std::byte> workspace;
  uint64_t bytes = 0;

  template <typename Set>
  explicit Setup(Set set) {
    REQUIRE(sla2_attention_config_init(&config, sizeof config) == SLA2_OK);
    config.mode = SLA2_MODE_SLA2;
    config.heads = kHeads;
    config.kv_heads = kKeyHeads;
    config.query_tokens = kQueries;
    config.key_tokens = kKeys;
    config.head_dim = kDim;
    config.block_q = 32;
    config.block_k = 32;
    config.sparsity = 0.5;
    set(config);
    REQUIRE(sla2_attention_create(&config, &plan) == SLA2_OK);
    REQUIRE(sla2_attention_workspace_size(plan, &bytes) == SLA2_OK);
    REQUIRE(sla2_attention_blocks(plan, &query_blocks, &key_blocks, &max_kept) == SLA2_OK);
    workspace = sla2::AlignedBuffer<std::byte>(bytes);
    REQUIRE(sla2_qkv_init(&qkv, sizeof qkv) == SLA2_OK);
    qkv.q = &q.tensor, qkv.k = &k.tensor, qkv.v = &v.tensor;
    REQUIRE(sla2_attention_params_init(&params, sizeof params) == SLA2_OK);
    REQUIRE(sla2_attention_outputs_init(&outputs, sizeof outputs) == SLA2_OK);
    outputs.out = &out.tensor;
    REQUIRE(sla2_block_list_init(&list, sizeof list) == SLA2_OK);
    index.assign(static_cast<size_t>(kHeads * query_blocks * max_kept), -7);
    count.assign(static_cast<size_t>(kHeads * query_blocks), -7);
    list.index = index.data(), list.count = count.data(), list.capacity = max_kept;
  }
  ~Setup() { sla2_attention_destroy(plan); }
  Setup(const Setup&) = delete;
  Setup& operator=(const Setup&) = delete;

  sla2_status run() { return sla2_attention_run(plan, nullptr, &qkv, &params, workspace.data(), bytes, &outputs); }
};

constexpr auto kAsIs = [](sla2_attention_config&) {};

TEST_CASE("run gives forward's bits, a list, log-sum-exps and a probe; route gives the same list") {
  Setup s(kAsIs);
  CHECK(s.query_blocks == 5);
  CHECK(s.key_blocks == 7);
  CHECK(s.max_kept == 4);
  sla2_attention_probe probe{};
  REQUIRE(sla2_attention_probe_init(&probe, sizeof probe) == SLA2_OK);
  probe.fraction = 0.5;
  s.outputs.lse = &s.lse.tensor, s.outputs.list = &s.list, s.outputs.probe = &probe;
  s.lse.data[0] = NAN;
  REQUIRE(s.run() == SLA2_OK);
  CHECK(std::isfinite(s.lse.data[0]));
  CHECK(std::all_of(s.count.begin(), s.count.end(), [](int32_t n) { return n == 4; }));
  CHECK(std::all_of(s.index.begin(), s.index.end(), [](int32_t j) { return j >= 0 && j < 7; }));
  CHECK(probe.blocks == 3 * kHeads);
  CHECK(probe.relative_l1 > 0);
  const std::vector<float> first(s.out.data.data(), s.out.data.data() + s.out.data.size());
  REQUIRE(sla2_attention_forward(s.plan, nullptr, &s.qkv, s.workspace.data(), s.bytes, &s.out.tensor) == SLA2_OK);
  CHECK(std::memcmp(first.data(), s.out.data.data(), first.size() * sizeof(float)) == 0);
  const std::vector<int32_t> kept = s.index;
  std::fill(s.index.begin(), s.index.end(), -7);
  s.qkv.v = nullptr;
  REQUIRE(sla2_attention_route(s.plan, nullptr, &s.qkv, &s.params, s.workspace.data(), s.bytes, &s.list) == SLA2_OK);
  CHECK(s.index == kept);
  sla2_attention_stats stats{};
  REQUIRE(sla2_attention_stats_init(&stats, sizeof stats) == SLA2_OK);
  REQUIRE(sla2_attention_get_stats(s.plan, &stats) == SLA2_OK);
  CHECK(stats.blocks_kept == 4 * 5 * kHeads);
  CHECK(stats.mean_linear_weight > 0);
}

TEST_CASE("a byte mask and the list of the same blocks give the same bits") {
  Setup s([](sla2_attention_config& c) { c.router = SLA2_ROUTER_GIVEN; });
  sla2::AlignedBuffer<uint8_t> bytes(static_cast<size_t>(kHeads * s.query_blocks * s.key_blocks));
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = i % 3 == 0 || i % 7 == 0 ? 1 : 0;
  const int64_t shape[4] = {1, kHeads, s.query_blocks, s.key_blocks};
  sla2_tensor mask{};
  REQUIRE(sla2_tensor_init(&mask, sizeof mask) == SLA2_OK);
  REQUIRE(sla2_tensor_set_contiguous(&mask, bytes.data(), SLA2_DTYPE_UINT, 8, 4, shape) == SLA2_OK);
  s.params.given_mask = &mask;
  s.outputs.list = &s.list;
  REQUIRE(s.run() == SLA2_OK);
  const std::vector<float> first(s.out.data.data(), s.out.data.data() + s.out.data.size());
  s.params.given_mask = nullptr;
  s.outputs.list = nullptr;
  s.params.given = &s.list;
  REQUIRE(s.run() == SLA2_OK);
  CHECK(std::memcmp(first.data(), s.out.data.data(), first.size() * sizeof(float)) == 0);
}

TEST_CASE("every learned tensor is read in its shape") {
  Setup sla1([](sla2_attention_config& c) { c.mode = SLA2_MODE_SLA1; });
  Array proj({kDim, kDim}, 0.2F), bias({kDim}, 0.1F);
  REQUIRE(sla1.run() == SLA2_OK);
  const float before = sla1.out.data[5];
  sla1.params.proj = &proj.tensor, sla1.params.proj_bias = &bias.tensor;
  REQUIRE(sla1.run() == SLA2_OK);
  CHECK(sla1.out.data[5] != before);

  for (const int64_t heads : {int64_t{1}, kHeads}) {
    Setup s([](sla2_attention_config& c) { c.mix = SLA2_MIX_BLOCK; });
    Array w_q({heads, kDim, kDim}, 0.5F), w_k({heads, kDim, kDim}, 0.7F), mix({kHeads, 5}, 0.4F);
    s.params.router_q = &w_q.tensor, s.params.router_k = &w_k.tensor, s.params.mix = &mix.tensor;
    CHECK(s.run() == SLA2_OK);
  }
  Setup vsa([](sla2_attention_config& c) { c.router = SLA2_ROUTER_VSA, c.mode = SLA2_MODE_SPARSE_ONLY; });
  Array gate({1, kHeads, kQueries, kDim}, 0.8F);
  REQUIRE(vsa.run() == SLA2_OK);
  const float plain = vsa.out.data[5];
  vsa.params.gate = &gate.tensor;
  REQUIRE(vsa.run() == SLA2_OK);
  CHECK(vsa.out.data[5] != plain);

  Setup full([](sla2_attention_config& c) { c.mode = SLA2_MODE_FULL; });
  Array key_bias({kKeys}, 2.0F);
  REQUIRE(full.run() == SLA2_OK);
  const float unbiased = full.out.data[5];
  full.params.key_bias = &key_bias.tensor;
  REQUIRE(full.run() == SLA2_OK);
  CHECK(full.out.data[5] != unbiased);
}

void refused(Setup& s, sla2_status got, sla2_status status, const std::string& word) {
  INFO("expected a text with '" << word << "', got " << sla2::api::last_error());
  CHECK(got == status);
  CHECK_THAT(sla2::api::last_error(), Catch::Contains(word));
  CHECK(s.out.data[0] == 0);  // untouched
}

TEST_CASE("what run cannot use is refused by name, and out stays as it was") {
  Setup s(kAsIs);
  Array wrong({kDim}, 0.5F), square({kDim, kDim}, 0.5F), mix({kHeads, 2}, 0.5F);
  s.params.router_q = &wrong.tensor;
  refused(s, s.run(), SLA2_E_ARGUMENT, "router_q");
  s.params.router_q = nullptr, s.params.proj = &square.tensor;
  refused(s, s.run(), SLA2_E_ARGUMENT, "proj");
  s.params.proj = nullptr, s.params.mix = &wrong.tensor;
  refused(s, s.run(), SLA2_E_ARGUMENT, "mix");
  mix.tensor.dtype_code = SLA2_DTYPE_INT;
  s.params.mix = &mix.tensor;
  refused(s, s.run(), SLA2_E_UNSUPPORTED, "mix");
  s.params.mix = nullptr, s.params.gate = &s.q.tensor;
  refused(s, s.run(), SLA2_E_ARGUMENT, "gate");
  s.params.gate = nullptr, s.params.given = &s.list;
  refused(s, s.run(), SLA2_E_ARGUMENT, "list");
  s.params.given = nullptr, s.params.reserved = 1;
  refused(s, s.run(), SLA2_E_VERSION, "reserved");
  s.params.reserved = 0, s.list.capacity = 3, s.outputs.list = &s.list;
  refused(s, s.run(), SLA2_E_ARGUMENT, "capacity");
  s.list.capacity = 4, s.list.count = s.index.data();
  refused(s, s.run(), SLA2_E_ARGUMENT, "overlaps");
  s.outputs.list = nullptr, s.outputs.lse = &s.q.tensor;
  refused(s, s.run(), SLA2_E_ARGUMENT, "lse");
  s.outputs.lse = nullptr;
  sla2_attention_probe probe{};
  REQUIRE(sla2_attention_probe_init(&probe, sizeof probe) == SLA2_OK);
  s.outputs.probe = &probe;
  refused(s, s.run(), SLA2_E_ARGUMENT, "fraction");
}

TEST_CASE("a caller of the first version of the structs is served") {
  sla2_attention_config config{};
  constexpr uint32_t kFirstSize = 104;  // up to mix_bias
  REQUIRE(sla2_attention_config_init(&config, kFirstSize) == SLA2_OK);
  std::memset(reinterpret_cast<char*>(&config) + kFirstSize, 0xFF, sizeof config - kFirstSize);  // not the caller's to set
  config.mode = SLA2_MODE_SLA2, config.heads = 1, config.query_tokens = config.key_tokens = 64, config.head_dim = 64;
  sla2_attention* plan = nullptr;
  CHECK(sla2_attention_create(&config, &plan) == SLA2_OK);
  sla2_attention_destroy(plan);
}

TEST_CASE("token orders are permutations and invert") {
  int32_t order[24], inverse[24];
  for (const int32_t kind : {SLA2_ORDER_RASTER, SLA2_ORDER_TILES, SLA2_ORDER_HILBERT}) {
    REQUIRE(sla2_token_order(kind, 2, 3, 4, 1, 2, 2, order) == SLA2_OK);
    REQUIRE(sla2_token_order_invert(order, 24, inverse) == SLA2_OK);
    for (int i = 0; i < 24; ++i) CHECK(inverse[order[i]] == i);
  }
  CHECK(sla2_token_order(4, 2, 3, 4, 1, 1, 1, order) == SLA2_E_ARGUMENT);
  CHECK(sla2_token_order(SLA2_ORDER_TILES, 2, 3, 4, 0, 1, 1, order) == SLA2_E_ARGUMENT);
  CHECK(sla2_token_order(SLA2_ORDER_RASTER, 2, 3, 4, 1, 1, 1, nullptr) == SLA2_E_ARGUMENT);
  order[0] = order[1];
  CHECK(sla2_token_order_invert(order, 24, inverse) == SLA2_E_ARGUMENT);
}

TEST_CASE("backward's structs and sizes exist") {
  Setup s(kAsIs);
  sla2_attention_saved saved{};
  sla2_attention_grads grads{};
  uint64_t bytes = 0;
  REQUIRE(sla2_attention_saved_init(&saved, sizeof saved) == SLA2_OK);
  REQUIRE(sla2_attention_grads_init(&grads, sizeof grads) == SLA2_OK);
  REQUIRE(sla2_attention_backward_workspace_size(s.plan, &bytes) == SLA2_OK);
  CHECK(sla2_attention_backward(s.plan, nullptr, &s.qkv, nullptr, nullptr, s.workspace.data(), s.bytes, &grads) ==
        SLA2_E_ARGUMENT);
  CHECK(sla2_attention_backward(s.plan, nullptr, &s.qkv, nullptr, &saved, s.workspace.data(), s.bytes, &grads) ==
        SLA2_E_ARGUMENT);
  CHECK_THAT(sla2::api::last_error(), Catch::Contains("d_out"));
}

}  // namespace
