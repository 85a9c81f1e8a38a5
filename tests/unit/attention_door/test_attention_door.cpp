// SPDX-License-Identifier: Apache-2.0
// attention.h and tensor.h as a C program sees them: results, and every refusal with its status and word.
#define SLA2_UNSTABLE
#include <sla2/attention.h>
#include <sla2/unstable.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstring>
#include <functional>
#include <vector>

#include "api/guard.h"
#include "core/core.h"
#include "device/device.h"

namespace {

constexpr int64_t kHeads = 2, kQueries = 70, kKeys = 150, kDim = 40;

struct Setup {
  sla2_attention_config config{};
  sla2_attention* plan = nullptr;
  sla2_exec exec{};
  sla2_qkv qkv{};
  sla2_tensor q{}, k{}, v{}, out{};
  sla2::AlignedBuffer<float> data_q{kHeads * kQueries * kDim}, data_k{kHeads * kKeys * kDim}, data_v{kHeads * kKeys * kDim},
      data_out{kHeads * kQueries * kDim};
  sla2::AlignedBuffer<std::byte> workspace;
  uint64_t bytes = 0;

  explicit Setup(int32_t layout = SLA2_LAYOUT_BHND) {
    REQUIRE(sla2_attention_config_init(&config, sizeof config) == SLA2_OK);
    config.mode = SLA2_MODE_SLA2;
    config.layout = layout;
    config.heads = kHeads;
    config.query_tokens = kQueries;
    config.key_tokens = kKeys;
    config.head_dim = kDim;
    config.sparsity = 0.5;
    REQUIRE(sla2_attention_create(&config, &plan) == SLA2_OK);
    REQUIRE(sla2_attention_workspace_size(plan, &bytes) == SLA2_OK);
    workspace = sla2::AlignedBuffer<std::byte>(bytes);
    REQUIRE(sla2_exec_init(&exec, sizeof exec) == SLA2_OK);
    REQUIRE(sla2_qkv_init(&qkv, sizeof qkv) == SLA2_OK);
    describe(q, data_q, kQueries, layout, 1);
    describe(k, data_k, kKeys, layout, 2);
    describe(v, data_v, kKeys, layout, 3);
    describe(out, data_out, kQueries, layout, 0);
    qkv.q = &q;
    qkv.k = &k;
    qkv.v = &v;
  }
  ~Setup() { sla2_attention_destroy(plan); }
  Setup(const Setup&) = delete;
  Setup& operator=(const Setup&) = delete;

  /// The same numbers at the same (head, token, channel) in either layout; salt 0: NaN.
  static void describe(sla2_tensor& tensor, sla2::AlignedBuffer<float>& data, int64_t tokens, int32_t layout, int salt) {
    const bool heads_first = layout == SLA2_LAYOUT_BHND;
    const int64_t shape[4] = {1, heads_first ? kHeads : tokens, heads_first ? tokens : kHeads, kDim};
    REQUIRE(sla2_tensor_init(&tensor, sizeof tensor) == SLA2_OK);
    REQUIRE(sla2_tensor_set_contiguous(&tensor, data.data(), SLA2_DTYPE_FLOAT, 32, 4, shape) == SLA2_OK);
    for (int64_t h = 0; h < kHeads; ++h)
      for (int64_t t = 0; t < tokens; ++t)
        for (int64_t c = 0; c < kDim; ++c)
          data[static_cast<size_t>((heads_first ? h * tokens + t : t * kHeads + h) * kDim + c)] =
              salt == 0 ? NAN : std::sin(static_cast<float>((h * 1000 + t) * 100 + c) * static_cast<float>(salt));
  }
  [[nodiscard]] float at(int64_t head, int64_t token, int64_t channel) const {
    const bool heads_first = config.layout == SLA2_LAYOUT_BHND;
    return data_out[static_cast<size_t>((heads_first ? head * kQueries + token : token * kHeads + head) * kDim + channel)];
  }
  sla2_status forward() { return sla2_attention_forward(plan, &exec, &qkv, workspace.data(), bytes, &out); }
};

void refused(const std::function<sla2_status(Setup&)>& call, sla2_status status, const std::string& word) {
  Setup s;
  INFO("expected a text with '" << word << "'");
  CHECK(call(s) == status);
  CHECK_THAT(sla2::api::last_error(), Catch::Contains(word));
  CHECK(std::isnan(s.data_out[0]));  // untouched
}

}  // namespace

TEST_CASE("forward through the door, both layouts, any threads", "[door]") {
  Setup one, two(SLA2_LAYOUT_BNHD);
  REQUIRE(one.forward() == SLA2_OK);
  two.exec.threads = 3;
  REQUIRE(two.forward() == SLA2_OK);
  bool equal = true;
  for (int64_t h = 0; h < kHeads; ++h)
    for (int64_t t = 0; t < kQueries; ++t)
      for (int64_t c = 0; c < kDim; ++c) equal = equal && one.at(h, t, c) == two.at(h, t, c);
  CHECK(equal);

  sla2_attention_stats stats;
  REQUIRE(sla2_attention_stats_init(&stats, sizeof stats) == SLA2_OK);
  REQUIRE(sla2_attention_get_stats(one.plan, &stats) == SLA2_OK);
  CHECK(stats.struct_size == sizeof stats);
  CHECK(stats.mode_used == SLA2_MODE_SLA2);
  CHECK(stats.blocks_total == kHeads * 1 * 3);
  CHECK(stats.blocks_kept == kHeads * 1 * 2);
  CHECK(stats.achieved_sparsity == Approx(1.0 / 3));
  CHECK(stats.bits_used == 16);
  CHECK(stats.products_used == SLA2_PRODUCTS_F32);

  const std::vector<float> before(one.data_out.data(), one.data_out.data() + one.data_out.size());
  CHECK(sla2_attention_forward(one.plan, nullptr, &one.qkv, one.workspace.data(), one.bytes, &one.out) == SLA2_OK);
  CHECK(std::memcmp(before.data(), one.data_out.data(), before.size() * sizeof(float)) == 0);
}

TEST_CASE("the caller's thread count survives a call", "[door]") {
  Setup s;
  sla2::set_thread_count(2);
  s.exec.threads = 1;
  CHECK(s.forward() == SLA2_OK);
  CHECK(sla2::thread_count() == 2);
  sla2::set_thread_count(0);
}

TEST_CASE("struct sizes of older and newer callers", "[door]") {
  Setup s;
  sla2_attention* plan = nullptr;
  SECTION("an older, shorter config takes defaults for the rest") {
    s.config.struct_size = offsetof(sla2_attention_config, mix_scale);
    CHECK(sla2_attention_create(&s.config, &plan) == SLA2_OK);
    sla2_attention_destroy(plan);
  }
  SECTION("a newer, longer config: zero tail accepted, set tail refused") {
    struct Newer {
      sla2_attention_config config;
      int64_t more;
    } newer{s.config, 0};
    newer.config.struct_size = sizeof newer;
    CHECK(sla2_attention_create(&newer.config, &plan) == SLA2_OK);
    sla2_attention_destroy(plan);
    plan = nullptr;
    newer.more = 1;
    CHECK(sla2_attention_create(&newer.config, &plan) == SLA2_E_VERSION);
    CHECK(plan == nullptr);
  }
  SECTION("never initialised") {
    s.config.struct_size = 0;
    CHECK(sla2_attention_create(&s.config, &plan) == SLA2_E_ARGUMENT);
  }
}

TEST_CASE("plans on a device", "[door]") {
  Setup s;
  sla2_attention* plan = nullptr;
  REQUIRE(sla2_attention_create_on(&s.config, SLA2_DEVICE_CPU, 0, &plan) == SLA2_OK);
  uint64_t bytes = 0;
  CHECK(sla2_attention_workspace_size(plan, &bytes) == SLA2_OK);
  CHECK(bytes == s.bytes);
  sla2_attention_destroy(plan);
  plan = nullptr;
  CHECK(sla2_attention_create_on(&s.config, 77, 0, &plan) == SLA2_E_ARGUMENT);
  CHECK_THAT(sla2::api::last_error(), Catch::Matchers::Contains("device_type is 77"));
  if (!sla2::device::report().missing.empty()) {
    CHECK(sla2_attention_create_on(&s.config, SLA2_DEVICE_CUDA, 0, &plan) == SLA2_E_DEVICE);
    CHECK_THAT(sla2::api::last_error(), Catch::Matchers::Contains(sla2::device::report().missing));
  } else {
    CHECK(sla2_attention_create_on(&s.config, SLA2_DEVICE_CUDA, 0, &plan) == SLA2_E_UNSUPPORTED);  // products are fp32
    CHECK(sla2_attention_create_on(&s.config, SLA2_DEVICE_CUDA, 1000, &plan) == SLA2_E_ARGUMENT);
  }
  CHECK(plan == nullptr);
}

TEST_CASE("null pointers", "[door]") {
  Setup s;
  uint64_t bytes = 7;
  sla2_attention_destroy(nullptr);
  CHECK(sla2_attention_config_init(nullptr, sizeof(sla2_attention_config)) == SLA2_E_ARGUMENT);
  CHECK(sla2_attention_create(nullptr, &s.plan) == SLA2_E_ARGUMENT);
  CHECK(sla2_attention_create(&s.config, nullptr) == SLA2_E_ARGUMENT);
  CHECK(sla2_attention_workspace_size(nullptr, &bytes) == SLA2_E_ARGUMENT);
  CHECK(bytes == 7);
  CHECK(sla2_attention_workspace_size(s.plan, nullptr) == SLA2_E_ARGUMENT);
  CHECK(sla2_attention_forward(nullptr, &s.exec, &s.qkv, s.workspace.data(), s.bytes, &s.out) == SLA2_E_ARGUMENT);
  CHECK(sla2_attention_forward(s.plan, &s.exec, nullptr, s.workspace.data(), s.bytes, &s.out) == SLA2_E_ARGUMENT);
  CHECK(sla2_attention_forward(s.plan, &s.exec, &s.qkv, nullptr, s.bytes, &s.out) == SLA2_E_ARGUMENT);
  CHECK(sla2_attention_forward(s.plan, &s.exec, &s.qkv, s.workspace.data(), s.bytes, nullptr) == SLA2_E_ARGUMENT);
  CHECK(sla2_attention_get_stats(s.plan, nullptr) == SLA2_E_ARGUMENT);
  CHECK(sla2_tensor_init(nullptr, sizeof(sla2_tensor)) == SLA2_E_ARGUMENT);
  CHECK(sla2_tensor_init(&s.q, 8) == SLA2_E_ARGUMENT);
  CHECK(sla2_exec_init(nullptr, sizeof(sla2_exec)) == SLA2_E_ARGUMENT);
}

TEST_CASE("configurations refused at the door", "[door]") {
  const auto create = [](void (*change)(sla2_attention_config&)) {
    return [change](Setup& s) {
      change(s.config);
      sla2_attention* plan = nullptr;
      const sla2_status status = sla2_attention_create(&s.config, &plan);
      CHECK(plan == nullptr);
      return status;
    };
  };
  refused(create([](sla2_attention_config& c) { c.mode = 8; }), SLA2_E_ARGUMENT, "mode");
  refused(create([](sla2_attention_config& c) { c.mode = 257; }), SLA2_E_ARGUMENT, "mode");
  refused(create([](sla2_attention_config& c) { c.layout = 0; }), SLA2_E_ARGUMENT, "layout");
  refused(create([](sla2_attention_config& c) { c.mix = 7; }), SLA2_E_ARGUMENT, "mix");
  refused(create([](sla2_attention_config& c) { c.smooth_k = 2; }), SLA2_E_ARGUMENT, "smooth_k");
  refused(create([](sla2_attention_config& c) { c.reserved = 1; }), SLA2_E_VERSION, "reserved");
  refused(create([](sla2_attention_config& c) { c.head_dim = 33; }), SLA2_E_ARGUMENT, "head_dim");
}

TEST_CASE("calls refused at the door leave out untouched", "[door]") {
  refused([](Setup& s) { return s.q.shape[2] = 71, s.forward(); }, SLA2_E_ARGUMENT, "q: shape");
  refused([](Setup& s) { return s.k.ndim = 3, s.forward(); }, SLA2_E_ARGUMENT, "k: 3 axes");
  refused([](Setup& s) { return s.v.strides[3] = 2, s.forward(); }, SLA2_E_ARGUMENT, "v: stride");
  refused([](Setup& s) { return s.k.strides[2] = INT64_MAX / 2, s.forward(); }, SLA2_E_ARGUMENT, "k: axis 2");
  refused([](Setup& s) { return s.q.dtype_bits = 64, s.forward(); }, SLA2_E_UNSUPPORTED, "q: element type");
  refused([](Setup& s) { return s.q.dtype_bits = 12, s.forward(); }, SLA2_E_ARGUMENT, "q: element type");
  refused([](Setup& s) { return s.q.dtype_lanes = 2, s.forward(); }, SLA2_E_ARGUMENT, "lanes");
  refused([](Setup& s) { return s.q.data = nullptr, s.forward(); }, SLA2_E_ARGUMENT, "q: data is NULL");
  refused([](Setup& s) { return s.q.data = s.data_q.data() + 1, s.forward(); }, SLA2_E_ARGUMENT, "aligned");
  refused([](Setup& s) { return s.q.device_type = SLA2_DEVICE_CUDA, s.forward(); }, SLA2_E_UNSUPPORTED, "device");
  refused([](Setup& s) { return s.q.struct_size = 0, s.forward(); }, SLA2_E_ARGUMENT, "q: struct_size");
  refused([](Setup& s) { return s.qkv.v = nullptr, s.forward(); }, SLA2_E_ARGUMENT, "tensor v");
  refused([](Setup& s) { return s.exec.threads = -1, s.forward(); }, SLA2_E_ARGUMENT, "threads");
  refused([](Setup& s) { return s.exec.device_type = SLA2_DEVICE_CUDA, s.forward(); }, SLA2_E_UNSUPPORTED, "device");
  refused([](Setup& s) { return s.bytes -= 1, s.forward(); }, SLA2_E_ARGUMENT, "workspace has");
  refused([](Setup& s) { return sla2_attention_forward(s.plan, &s.exec, &s.qkv, s.workspace.data() + 16, s.bytes, &s.out); },
          SLA2_E_ARGUMENT, "workspace");
  refused([](Setup& s) { return s.out.strides[1] = 0, s.forward(); }, SLA2_E_ARGUMENT, "share memory");
  refused([](Setup& s) { return s.out.data = s.q.data, s.forward(); }, SLA2_E_ARGUMENT, "out overlaps q");
  refused([](Setup& s) { return s.out.data = s.workspace.data(), s.forward(); }, SLA2_E_ARGUMENT, "workspace overlaps out");
  refused([](Setup& s) { return s.k.data = s.workspace.data(), s.forward(); }, SLA2_E_ARGUMENT, "workspace overlaps k");
  refused(
      [](Setup& s) {
        s.out.dtype_bits = 16;
        return s.forward();
      },
      SLA2_E_ARGUMENT, "out: element type");
}

TEST_CASE("contiguous tensors", "[door]") {
  Setup s;
  const int64_t shape[3] = {2, 3, 5};
  sla2_tensor t;
  REQUIRE(sla2_tensor_init(&t, sizeof t) == SLA2_OK);
  CHECK(t.device_type == SLA2_DEVICE_CPU);
  REQUIRE(sla2_tensor_set_contiguous(&t, s.data_q.data(), SLA2_DTYPE_BFLOAT, 16, 3, shape) == SLA2_OK);
  CHECK(t.strides[0] == 15);
  CHECK(t.strides[1] == 5);
  CHECK(t.strides[2] == 1);
  const int64_t huge[3] = {INT64_MAX / 2, 3, 5}, empty[1] = {0};
  CHECK(sla2_tensor_set_contiguous(&t, s.data_q.data(), SLA2_DTYPE_FLOAT, 32, 3, huge) == SLA2_E_ARGUMENT);
  CHECK(sla2_tensor_set_contiguous(&t, s.data_q.data(), SLA2_DTYPE_FLOAT, 32, 1, empty) == SLA2_E_ARGUMENT);
  CHECK(sla2_tensor_set_contiguous(&t, s.data_q.data(), SLA2_DTYPE_FLOAT, 32, 7, shape) == SLA2_E_ARGUMENT);
  CHECK(sla2_tensor_set_contiguous(&t, s.data_q.data(), 3, 32, 3, shape) == SLA2_E_ARGUMENT);
  CHECK(t.shape[0] == 2);
}
