// SPDX-License-Identifier: Apache-2.0
// The oracle against itself: gradients against central differences of its own forward, limits that must coincide, and
// answers known beforehand. tests/python/test_attention_oracle.py compares it with PyTorch.
#include <catch2/catch.hpp>
#include <functional>
#include <random>
#include <string>

#include "oracle/arithmetic.h"
#include "oracle/oracle.h"

using namespace sla2::check;

namespace {

Table normal(int64_t rows, int64_t cols, uint32_t seed, double spread = 1) {
  std::mt19937 engine(seed);
  std::normal_distribution<double> distribution(0, spread);
  Table x(rows, cols);
  for (double& value : x.data) value = distribution(engine);
  return x;
}

Problem small(Mode mode) {
  Problem p;
  p.mode = mode;
  p.queries = 11;
  p.keys = 19;
  p.dim = 5;
  p.block_q = 4;
  p.block_k = 4;
  p.sparsity = 0.6;
  return p;
}

Head random_head(const Problem& p, uint32_t seed) {
  Head h;
  h.q = normal(p.queries, p.dim, seed);
  h.k = normal(p.keys, p.dim, seed + 1);
  h.v = normal(p.keys, p.dim, seed + 2);
  for (double& x : h.k.data) x += 0.4;
  h.w_q = normal(p.dim, p.dim, seed + 3);
  h.w_k = normal(p.dim, p.dim, seed + 4);
  h.proj = normal(p.dim, p.dim, seed + 5, 0.5);
  h.proj_bias = normal(1, p.dim, seed + 6).data;
  h.gate = normal(p.queries, p.dim, seed + 7);
  h.a = normal(1, p.a_mode == AMode::kBlock ? p.query_blocks() : 2, seed + 8).data;
  return h;
}

Table run(const Problem& p, const Head& h) { return forward(p, h, select(p, h), Arithmetic::kExact).o; }

/// Analytic gradients of ⟨dO, O⟩ against central differences, for every input, relative to the largest entry. A hard mask must
/// not change within the step: routes of random inputs are far apart. L − L_rest is held, as the gradients hold it.
void check_gradients(const Problem& p, uint32_t seed) {
  Head h = random_head(p, seed);
  const Selection s = select(p, h);
  h.frozen = forward(p, h, s, Arithmetic::kExact).lse_minus_rest;
  const Table d_out = normal(p.queries, p.dim, seed + 9);
  const Gradients g = backward(p, h, s, d_out);
  struct Entry {
    const char* name;
    std::function<std::vector<double>&(Head&)> values;
    const std::vector<double>& gradient;
  };
  const Entry entries[] = {{"Q", [](Head& x) -> std::vector<double>& { return x.q.data; }, g.q.data},
                           {"K", [](Head& x) -> std::vector<double>& { return x.k.data; }, g.k.data},
                           {"V", [](Head& x) -> std::vector<double>& { return x.v.data; }, g.v.data},
                           {"W_q", [](Head& x) -> std::vector<double>& { return x.w_q.data; }, g.w_q.data},
                           {"W_k", [](Head& x) -> std::vector<double>& { return x.w_k.data; }, g.w_k.data},
                           {"proj", [](Head& x) -> std::vector<double>& { return x.proj.data; }, g.proj.data},
                           {"proj_bias", [](Head& x) -> std::vector<double>& { return x.proj_bias; }, g.proj_bias},
                           {"gate", [](Head& x) -> std::vector<double>& { return x.gate.data; }, g.gate.data},
                           {"a", [](Head& x) -> std::vector<double>& { return x.a; }, g.a}};
  for (const Entry& e : entries) {
    constexpr double kStep = 1e-5;
    std::vector<double>& values = e.values(h);
    REQUIRE(values.size() == e.gradient.size());
    double worst = 0, largest = 1e-3;
    for (size_t i = 0; i < values.size(); ++i) {
      const double kept = values[i];
      double loss[2];
      for (const int side : {0, 1}) {
        values[i] = kept + (side == 0 ? kStep : -kStep);
        const Table o = run(p, h);
        loss[side] = dot(o.data.data(), d_out.data.data(), static_cast<int64_t>(o.data.size()));
      }
      values[i] = kept;
      worst = std::max(worst, std::abs((loss[0] - loss[1]) / (2 * kStep) - e.gradient[i]));
      largest = std::max(largest, std::abs(e.gradient[i]));
    }
    INFO("d" << e.name << ", mode " << static_cast<int>(p.mode) << ", a " << static_cast<int>(p.a_mode) << ", tau " << p.tau);
    CHECK(worst / largest < 1e-7);
  }
}

}  // namespace

TEST_CASE("gradients of every mode, hard mask", "[oracle]") {
  uint32_t seed = 1;
  for (const Mode mode :
       {Mode::kFull, Mode::kSla2, Mode::kSla1, Mode::kSparseOnly, Mode::kLinearOnly, Mode::kLPlusS, Mode::kPooled})
    for (const bool smooth : {true, false}) {
      Problem p = small(mode);
      p.smooth_k = smooth;
      check_gradients(p, seed += 20);
    }
  Problem p = small(Mode::kSla1);
  p.negligible = 0.2;
  check_gradients(p, seed += 20);
  p.scope = Scope::kGlobal;
  check_gradients(p, seed += 20);
}

TEST_CASE("gradients of every a-mode", "[oracle]") {
  for (const AMode a : {AMode::kHeadAffineLse, AMode::kConst, AMode::kHeadScalar, AMode::kBlock}) {
    Problem p = small(Mode::kSla2);
    p.a_mode = a;
    p.scale = 0.8;
    check_gradients(p, 500);
  }
}

TEST_CASE("gradients through SoftTop-k are the implicit ones", "[oracle]") {
  uint32_t seed = 900;
  for (const Mode mode : {Mode::kSla2, Mode::kSla1, Mode::kSparseOnly, Mode::kLPlusS, Mode::kPooled})
    for (const double tau : {0.3, 1.0}) {
      Problem p = small(mode);
      p.tau = tau;
      check_gradients(p, seed += 20);
    }
}

TEST_CASE("gradients under the other routers", "[oracle]") {
  for (const Router router : {Router::kVsa, Router::kVmoba, Router::kSparge}) {
    Problem p = small(Mode::kSparseOnly);
    p.router = router;
    p.top_p = 0.5;
    check_gradients(p, 1500);
  }
}

TEST_CASE("modes coincide where they must", "[oracle]") {
  const auto worst = [](const Table& x, const Table& y) {
    double most = 0;
    for (size_t i = 0; i < x.data.size(); ++i) most = std::max(most, std::abs(x.data[i] - y.data[i]));
    return most;
  };
  Problem p = small(Mode::kSla2);
  Head h = random_head(p, 40);
  Problem full = p;
  full.mode = Mode::kFull;
  const Table dense = run(full, h);

  SECTION("every block kept is dense, and so is its log-sum-exp") {
    p.sparsity = 0;
    for (const Mode mode : {Mode::kSla2, Mode::kSparseOnly, Mode::kPooled}) {
      p.mode = mode;
      const Output o = forward(p, h, select(p, h), Arithmetic::kExact);
      CHECK(worst(o.o, dense) < 1e-12);
      const Output f = forward(full, h, select(full, h), Arithmetic::kExact);
      for (size_t i = 0; i < o.lse.size(); ++i) CHECK(o.lse[i] == Approx(f.lse[i]).epsilon(1e-12));
    }
  }
  SECTION("SoftTop-k grows hard as tau falls") {
    const Selection hard = select(p, h);
    p.tau = 1e-3;
    const Selection soft = select(p, h);
    CHECK(worst(hard.mask, soft.mask) < 1e-6);
    CHECK(worst(forward(p, h, soft, Arithmetic::kExact).o, forward(p, h, hard, Arithmetic::kExact).o) < 1e-5);
  }
  SECTION("blocks of one key: the pooled tail is exact") {
    p.mode = Mode::kPooled;
    p.block_k = 1;
    CHECK(worst(run(p, h), dense) < 1e-12);
  }
  SECTION("adding a vector to every key changes nothing where K is smoothed") {
    const Table before = run(p, h);
    for (int64_t t = 0; t < p.keys; ++t)
      for (int64_t c = 0; c < p.dim; ++c) h.k(t, c) += static_cast<double>(c) - 2;
    CHECK(worst(run(p, h), before) < 1e-11);
  }
  SECTION("a zero projection leaves the sparse branch") {
    p.mode = Mode::kSla1;
    h.proj = Table(p.dim, p.dim);
    h.proj_bias.assign(5, 0.0);
    const Table o = run(p, h);
    p.mode = Mode::kSparseOnly;
    h.w_q = h.w_k = {};
    Head same = h;
    p.router = Router::kSla1;
    CHECK(worst(run(p, same), run(p, h)) == 0);
    CHECK(o.rows == p.queries);
  }
}

TEST_CASE("routers keep what their rules say", "[oracle]") {
  Problem p;
  p.mode = Mode::kSparseOnly;
  p.queries = p.keys = 40;
  p.dim = 2;
  p.block_q = p.block_k = 4;  // 10 blocks
  p.scale = 1;
  Head h;
  h.q = Table(40, 2);
  h.k = Table(40, 2);
  h.v = Table(40, 2, 1.0);
  for (int64_t t = 0; t < 40; ++t) {
    h.q(t, 0) = 1;
    h.k(t, 0) = static_cast<double>(t / 4);  // scores rise with the block
    h.k(t, 1) = 0.01 * static_cast<double>(t % 2);
  }
  const auto kept = [&] {
    const Selection s = select(p, h);
    std::string text;
    for (int64_t j = 0; j < 10; ++j) text += s.mask(5, j) > 0 ? '1' : '0';
    return text;
  };
  p.sparsity = 0.75;
  CHECK(kept() == "0000000111");  // round(2.5) is 3
  p.sparsity = 1;
  CHECK(kept() == "0000000001");
  p.sparsity = 0.7;
  p.router = Router::kVsa;
  CHECK(kept() == "0000000111");  // ceil(3.0000000000000004) is 3
  p.sparsity = 0.75;
  CHECK(kept() == "0000000111");
  p.router = Router::kSla2;
  p.protect_first = 1;
  p.protect_near = 0;
  CHECK(kept() == "1000010001");  // first and own block count among the three
  p.protect_last = 2;
  CHECK(kept() == "1000010011");
  p.protect_first = p.protect_last = 0;
  p.protect_near = 1;
  CHECK(kept() == "0000111000");
  p.protect_near = -1;
  p.router = Router::kVmoba;
  p.top_p = 0.3;  // stretched shares 9/45, 8/45: 0.2 + 0.18 ≥ 0.3; its own block besides
  CHECK(kept() == "0000010011");
  p.router = Router::kSparge;
  p.rule = Rule::kCdf;
  p.top_p = 0.9;  // softmax shares 0.632, 0.233, 0.086: two are ≤ 0.9
  CHECK(kept() == "0000000011");
  p.rule = Rule::kHybrid;
  p.sparsity = 0.9;
  CHECK(kept() == "0000000111");  // top-1 ∪ shortest prefix ≥ 0.9
  for (double& x : h.q.data) x = 0;
  p.router = Router::kSla2;
  p.sparsity = 0.75;
  CHECK(kept() == "1110000000");  // ties: the lowest
}

TEST_CASE("arithmetics", "[oracle]") {
  CHECK(round_to_bf16(1.00390625F) == 1.0F);  // half way: to even
  CHECK(round_to_bf16(1.01171875F) == 1.015625F);
  Table x(2, 2);
  x.data = {127, -63.4, 0.2, 0};
  CHECK(through_int8(x, 2).data == std::vector<double>{127, -63, 0, 0});
  Problem p = small(Mode::kSla2);
  const Head h = random_head(p, 70);
  const Selection s = select(p, h);
  const Table exact = forward(p, h, s, Arithmetic::kExact).o;
  double last = 0;
  for (const Arithmetic a : {Arithmetic::kF32, Arithmetic::kBf16, Arithmetic::kInt8}) {
    const Table o = forward(p, h, s, a).o;
    double error = 0;
    for (size_t i = 0; i < o.data.size(); ++i) error += std::abs(o.data[i] - exact.data[i]);
    CHECK(error > last);  // each is coarser than the one before
    last = error;
  }
}
