// SPDX-License-Identifier: Apache-2.0
// What must hold whatever the values: layouts, types, threads, guards, refusals.
#include "attention_case.h"

using namespace sla2;
using namespace sla2::test;
using attention::Config;

namespace {

Config sla2_config(int64_t tokens, int64_t dim, double sparsity) {
  Config c;
  c.mode = attention::Mode::kSla2;
  c.heads = 1;
  c.query_tokens = c.key_tokens = tokens;
  c.head_dim = dim;
  c.sparsity = sparsity;
  return c;
}

}  // namespace

TEST_CASE("sla2 with every block kept is the full path", "[attention]") {
  const auto q = normal(200 * 64, 1), k = normal(200 * 64, 2), v = normal(200 * 64, 3);
  Config c = sla2_config(200, 64, 0);
  attention::Stats stats;
  const auto kept = run(c, q, k, v, {}, active_isa(), &stats);
  CHECK(stats.mode_used == attention::Mode::kFull);
  CHECK(stats.achieved_sparsity == 0);
  c.mode = attention::Mode::kFull;
  CHECK(kept == run(c, q, k, v));

  SECTION("one key block can only be kept") {
    Config one = sla2_config(200, 64, 1.0);
    one.key_tokens = 40;
    const std::vector<float> k1(k.begin(), k.begin() + 40 * 64), v1(v.begin(), v.begin() + 40 * 64);
    run(one, q, k1, v1, {}, active_isa(), &stats);
    CHECK(stats.mode_used == attention::Mode::kFull);
  }
}

TEST_CASE("the number of threads changes no bit", "[attention]") {
  const int64_t size = 3 * 400 * 64;
  const auto q = normal(size, 1), k = normal(size, 2), v = normal(size, 3);
  for (const double sparsity : {0.0, 0.5, 0.9}) {
    Config c = sla2_config(400, 64, sparsity);
    c.heads = 3;
    set_thread_count(1);
    const auto one = run(c, q, k, v);
    for (const int threads : {2, 3, 7}) {
      set_thread_count(threads);
      CHECK(run(c, q, k, v) == one);
    }
    set_thread_count(0);
  }
}

TEST_CASE("a plan made for few threads runs under many", "[attention]") {
  const auto q = normal(300 * 32, 1);
  const Config c = sla2_config(300, 32, 0.5);
  set_thread_count(1);
  const auto plan = attention::Plan::create(c);
  GuardedBytes workspace(plan->workspace_bytes());
  std::vector<float> out(q.size());
  set_thread_count(64);
  const attention::Operand x = dense_operand(q, 1, 300, 32);
  plan->forward(x, x, x, nullptr, workspace.data(), {out.data(), DType::kF32, 300 * 32, 300 * 32, 32});
  CHECK(thread_count() == 64);
  set_thread_count(0);
  CHECK(workspace.intact());
  CHECK(out == run(c, q, q, q));
}

TEST_CASE("any layout and any stride", "[attention]") {
  const int64_t b = 2, h = 3, n = 150, d = 40;
  Config c = sla2_config(n, d, 0.5);
  c.batch = b;
  c.heads = h;
  c.block_q = 64;
  c.block_k = 32;
  const auto q = normal(b * h * n * d, 1), k = normal(b * h * n * d, 2), v = normal(b * h * n * d, 3);
  const auto expected = run(c, q, k, v);

  // One fused buffer [B, N, 3, H, D] and an output [B, N, H, D] with rows of d + 5 elements.
  const int64_t pad = 5, row = d + pad;
  std::vector<float> fused(static_cast<size_t>(b * n * 3 * h * d));
  for (int64_t bi = 0; bi < b; ++bi)
    for (int64_t hi = 0; hi < h; ++hi)
      for (int64_t t = 0; t < n; ++t)
        for (int64_t x = 0; x < d; ++x)
          for (int64_t part = 0; part < 3; ++part)
            fused[static_cast<size_t>((((bi * n + t) * 3 + part) * h + hi) * d + x)] =
                (part == 0   ? q
                 : part == 1 ? k
                             : v)[static_cast<size_t>(((bi * h + hi) * n + t) * d + x)];
  const auto part = [&](int64_t index) {
    return attention::Operand{fused.data() + index * h * d, DType::kF32, n * 3 * h * d, d, 3 * h * d};
  };
  constexpr float kUntouched = -12345;
  std::vector<float> out(static_cast<size_t>(b * n * h * row), kUntouched);
  const auto plan = attention::Plan::create(c);
  GuardedBytes workspace(plan->workspace_bytes());
  plan->forward(part(0), part(1), part(2), nullptr, workspace.data(), {out.data(), DType::kF32, n * h * row, row, h * row});
  bool equal = true, padding = true;
  for (int64_t bi = 0; bi < b; ++bi)
    for (int64_t hi = 0; hi < h; ++hi)
      for (int64_t t = 0; t < n; ++t)
        for (int64_t x = 0; x < row; ++x) {
          const float value = out[static_cast<size_t>(((bi * n + t) * h + hi) * row + x)];
          if (x >= d) {
            padding = padding && value == kUntouched;
          } else {
            equal = equal && value == expected[static_cast<size_t>(((bi * h + hi) * n + t) * d + x)];
          }
        }
  CHECK(equal);
  CHECK(padding);
}

TEST_CASE("bf16 and fp16 are fp32 with one rounding at each end", "[attention]") {
  const int64_t n = 260, d = 64;
  const Config c = sla2_config(n, d, 0.6);
  for (const DType dtype : {DType::kBF16, DType::kF16}) {
    std::vector<std::vector<uint16_t>> narrow;
    std::vector<std::vector<float>> wide;
    for (uint32_t seed = 1; seed <= 3; ++seed) {
      const auto x = normal(n * d, seed);
      std::vector<uint16_t> stored(x.size());
      for (size_t i = 0; i < x.size(); ++i) stored[i] = dtype == DType::kBF16 ? f32_to_bf16(x[i]) : f32_to_f16(x[i]);
      std::vector<float> back(x.size());
      convert_to_f32(dtype, stored.data(), back.data(), back.size());
      narrow.push_back(stored);
      wide.push_back(back);
    }
    const auto expected = run(c, wide[0], wide[1], wide[2]);
    const auto plan = attention::Plan::create(c);
    GuardedBytes workspace(plan->workspace_bytes());
    std::vector<uint16_t> out(static_cast<size_t>(n * d));
    const auto operand = [&](size_t i) { return attention::Operand{narrow[i].data(), dtype, n * d, n * d, d}; };
    plan->forward(operand(0), operand(1), operand(2), nullptr, workspace.data(), {out.data(), dtype, n * d, n * d, d});
    bool equal = true;
    for (size_t i = 0; i < out.size(); ++i)
      equal = equal && out[i] == (dtype == DType::kBF16 ? f32_to_bf16(expected[i]) : f32_to_f16(expected[i]));
    CHECK(equal);
  }
}

TEST_CASE("sla2 follows permuted key blocks", "[attention]") {
  const int64_t n = 256, d = 32, half = n / 2 * d;
  const Config c = sla2_config(n, d, 0.5);
  const auto q = normal(n * d, 1), k = normal(n * d, 2), v = normal(n * d, 3);
  const auto swap = [&](std::vector<float> x) {
    std::rotate(x.begin(), x.begin() + half, x.end());
    return x;
  };
  const auto one = run(c, q, k, v), two = run(c, q, swap(k), swap(v));
  double most = 0;
  for (size_t i = 0; i < one.size(); ++i) most = std::max(most, static_cast<double>(std::abs(one[i] - two[i])));
  CHECK(most < 1e-6);
}

TEST_CASE("wrong configurations are refused with the field's name", "[attention]") {
  const auto refused = [](auto change, const std::string& word) {
    Config c = sla2_config(100, 64, 0.5);
    change(c);
    try {
      (void)attention::Plan::create(c);
      FAIL("accepted; expected an error about " << word);
    } catch (const Error& error) {
      CHECK(error.status() == SLA2_E_ARGUMENT);
      CHECK_THAT(error.what(), Catch::Contains(word));
    }
  };
  refused([](Config& c) { c.head_dim = 36; }, "head_dim");
  refused([](Config& c) { c.head_dim = 264; }, "head_dim");
  refused([](Config& c) { c.heads = 0; }, "heads");
  refused([](Config& c) { c.batch = -1; }, "batch");
  refused([](Config& c) { c.query_tokens = 0; }, "query_tokens");
  refused([](Config& c) { c.key_tokens = INT64_MAX; }, "2^56");
  refused([](Config& c) { c.sparsity = 1.01; }, "sparsity");
  refused([](Config& c) { c.sparsity = NAN; }, "sparsity");
  refused([](Config& c) { c.softmax_scale = -1; }, "softmax_scale");
  refused([](Config& c) { c.block_q = 16; }, "block_q");
  refused([](Config& c) { c.block_k = 48; }, "block_k");
  refused([](Config& c) { c.mix_bias = INFINITY; }, "mix_bias");
}
