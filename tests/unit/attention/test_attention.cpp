// SPDX-License-Identifier: Apache-2.0
// Values: the library against the fp64 oracle, with the error of plain fp32 code as the measure.
#include "attention_case.h"

using namespace sla2;
using namespace sla2::test;
using oracle::Problem;

namespace {

void check_random(const Problem& p, uint32_t seed, float spread = 1) {
  check_budget(p, normal(p.queries * p.dim, seed, spread), normal(p.keys * p.dim, seed + 1, spread, 0.3F),
               normal(p.keys * p.dim, seed + 2, 0.7F, 0.2F));
}

}  // namespace

TEST_CASE("full attention over shapes", "[attention]") {
  uint32_t seed = 1;
  for (const int64_t dim : {32, 40, 64, 96, 128, 256})
    for (const auto& [queries, keys] : {std::pair{1, 1}, {3, 64}, {65, 17}, {129, 200}}) {
      Problem p;
      p.queries = queries;
      p.keys = keys;
      p.dim = dim;
      check_random(p, seed += 3);
    }
}

TEST_CASE("full attention with a key bias", "[attention]") {
  Problem p;
  p.queries = 70;
  p.keys = 130;
  p.dim = 64;
  p.scale = 0.3;
  std::vector<float> bias = normal(p.keys, 9);
  bias[5] = bias[129] = -INFINITY;
  const auto q = normal(p.queries * p.dim, 1), k = normal(p.keys * p.dim, 2), v = normal(p.keys * p.dim, 3);
  check_budget(p, q, k, v, bias);

  SECTION("every key masked gives zeros") {
    const auto out = run(config_of(p), q, k, v, std::vector<float>(130, -INFINITY));
    CHECK(std::all_of(out.begin(), out.end(), [](float x) { return x == 0; }));
  }
}

TEST_CASE("sla2 over shapes, blocks and sparsities", "[attention]") {
  uint32_t seed = 100;
  for (const int64_t block_q : {32, 64, 128})
    for (const int64_t block_k : {16, 32, 64, 128})
      for (const double sparsity : {0.3, 0.8}) {
        Problem p;
        p.sparse = true;
        p.queries = 150;
        p.keys = 5 * block_k + 7;
        p.dim = block_q == 64 ? 64 : 40;
        p.block_q = block_q;
        p.block_k = block_k;
        p.sparsity = sparsity;
        check_random(p, seed += 3);
      }
  for (const int64_t dim : {32, 96, 128, 256}) {
    Problem p;
    p.sparse = true;
    p.queries = 140;
    p.keys = 333;
    p.dim = dim;
    p.sparsity = 0.7;
    p.smooth_k = dim != 96;
    p.mix_const = dim == 128;
    p.mix_scale = 1.2;
    p.mix_bias = -0.4;
    check_random(p, seed += 3);
  }
}

TEST_CASE("nasty inputs", "[attention]") {
  for (const bool sparse : {false, true}) {
    Problem p;
    p.sparse = sparse;
    p.sparsity = 0.75;
    p.queries = 130;
    p.keys = 300;
    p.dim = 64;
    auto q = normal(p.queries * p.dim, 5), k = normal(p.keys * p.dim, 6), v = normal(p.keys * p.dim, 7);
    SECTION(sparse ? "huge logits, sla2" : "huge logits, full") {
      for (float& x : q) x *= 40;
      for (float& x : k) x *= 40;
      check_budget(p, q, k, v);
    }
    SECTION(sparse ? "zero and outlier channels, sla2" : "zero and outlier channels, full") {
      for (int64_t t = 0; t < p.keys; ++t) {
        k[static_cast<size_t>(t * p.dim + 3)] = 0;
        k[static_cast<size_t>(t * p.dim + 9)] += 30;
        v[static_cast<size_t>(t * p.dim + 1)] = 0;
      }
      check_budget(p, q, k, v);
    }
    SECTION(sparse ? "all rows equal, sla2" : "all rows equal, full") {
      for (size_t i = 0; i < k.size(); ++i) k[i] = k[i % static_cast<size_t>(p.dim)];
      for (size_t i = 0; i < q.size(); ++i) q[i] = q[i % static_cast<size_t>(p.dim)];
      check_budget(p, q, k, v);  // every router score ties: the lowest blocks are kept
    }
    SECTION(sparse ? "zeros, sla2" : "zeros, full") {
      std::fill(q.begin(), q.end(), 0.0F);
      std::fill(k.begin(), k.end(), 0.0F);
      check_budget(p, q, k, v);
    }
    SECTION(sparse ? "a NaN in a value is seen, sla2" : "a NaN in a value is seen, full") {
      v[static_cast<size_t>(17 * p.dim)] = NAN;
      const auto out = run(config_of(p), q, k, v);
      for (int64_t i = 0; i < p.queries; ++i) CHECK(std::isnan(out[static_cast<size_t>(i * p.dim)]));
    }
    SECTION(sparse ? "a NaN in a key is seen, sla2" : "a NaN in a key is seen, full") {
      k[static_cast<size_t>(299 * p.dim + 5)] = NAN;
      const auto out = run(config_of(p), q, k, v);
      for (int64_t i = 0; i < p.queries; ++i) CHECK(std::isnan(out[static_cast<size_t>(i * p.dim)]));
    }
  }
}
