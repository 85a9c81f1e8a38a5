// SPDX-License-Identifier: Apache-2.0
// Plans with 8 bits against the oracle: what the project promises for them, with values in bf16 and in the model of FP8.
#include <tuple>

#include "attention_case.h"

using namespace sla2;
using namespace sla2::test;

namespace {

struct Distance {
  double relative_l1, cosine;
};
Distance distance(const std::vector<float>& ours, const std::vector<double>& exact) {
  double error = 0, size = 0, both = 0, one = 0, two = 0;
  for (size_t i = 0; i < ours.size(); ++i) {
    const double x = static_cast<double>(ours[i]);
    error += std::abs(x - exact[i]);
    size += std::abs(exact[i]);
    both += x * exact[i];
    one += x * x;
    two += exact[i] * exact[i];
  }
  return {error / size, both / std::sqrt(one * two)};
}

}  // namespace

TEST_CASE("8 bits in a plan: relative L1 of at most 0.03, cosine of at least 0.9995", "[attention]") {
  for (const Isa isa : sets_here())
    for (const bool sparse : {false, true})
      for (const int64_t dim : {40, 128}) {
        oracle::Problem p;
        p.sparse = sparse;
        p.sparsity = 0.75;
        p.queries = 150;
        p.keys = 1000;
        p.dim = dim;
        const auto q = normal(p.queries * dim, 1), k = normal(p.keys * dim, 2, 1, 0.3F), v = normal(p.keys * dim, 3);
        const auto exact = oracle::attention<double>(p, q, k, v);
        std::vector<std::vector<float>> results;
        for (const bool fp8 : {false, true}) {
          attention::Config config = config_of(p);
          config.bits = 8;
          config.fp8_values = fp8;
          attention::Stats stats;
          const auto ours = run(config, q, k, v, {}, isa, &stats);
          CHECK(stats.bits_used == 8);
          CHECK(stats.products_used == DType::kBF16);
          const Distance d = distance(ours, exact);
          INFO(isa_name(isa) << ", sparse " << sparse << ", D " << dim << ", FP8 " << fp8 << ": relative L1 " << d.relative_l1
                             << ", 1 - cosine " << 1 - d.cosine);
          if (!fp8) CHECK(d.relative_l1 <= 0.03);
          CHECK(d.relative_l1 > 1e-4);  // 8 bits did run
          CHECK(d.cosine >= (fp8 ? 0.999 : 0.9995));
          results.push_back(ours);
        }
        CHECK(results[0] != results[1]);
      }
}

TEST_CASE("a plan says what it multiplies, and does", "[attention]") {
  oracle::Problem p;
  p.sparse = true;
  p.sparsity = 0.5;
  p.queries = 70;
  p.keys = 300;
  p.dim = 64;
  const auto q = normal(p.queries * 64, 1), k = normal(p.keys * 64, 2), v = normal(p.keys * 64, 3);
  for (const Isa isa : sets_here()) {
    INFO(isa_name(isa));
    const auto told = [&](int bits, DType products, double tau) {
      attention::Config config = config_of(p);
      config.bits = bits;
      config.products = products;
      config.tau = tau;
      attention::Stats stats;
      auto out = run(config, q, k, v, {}, isa, &stats);
      return std::tuple(stats.bits_used, stats.products_used, std::move(out));
    };
    const auto [bits, products, plain] = told(16, DType::kF32, 0);
    CHECK(bits == 16);
    CHECK(products == DType::kF32);
    const auto [bf16_bits, bf16_products, bf16] = told(16, DType::kBF16, 0);
    const bool multiplies = isa == Isa::kScalar || isa == Isa::kAvx512Bf16;
    CHECK(bf16_bits == 16);
    CHECK(bf16_products == (multiplies ? DType::kBF16 : DType::kF32));
    CHECK((bf16 == plain) != multiplies);
    const auto [eight_bits, eight_products, eight] = told(8, DType::kF32, 0);
    CHECK(eight_bits == 8);
    CHECK(eight_products == DType::kBF16);
    CHECK(eight != bf16);
    const auto [soft_bits, soft_products, soft] = told(8, DType::kBF16, 0.5);
    CHECK(soft_bits == 16);
    CHECK(soft_products == DType::kF32);
  }
}

TEST_CASE("8 bits: a wrong number is refused, a mean key of any size is harmless", "[attention]") {
  oracle::Problem p;
  p.queries = 64;
  p.keys = 200;
  p.dim = 64;
  attention::Config config = config_of(p);
  config.bits = 4;
  CHECK_THROWS_WITH(attention::Plan::create(config), Catch::Contains("bits"));
  config.bits = 8;
  const auto q = normal(p.queries * 64, 1), k = normal(p.keys * 64, 2), v = normal(p.keys * 64, 3);
  auto far = k;
  for (size_t i = 0; i < far.size(); ++i) far[i] += static_cast<float>(i % 64) * 4;  // K minus its mean is what is rounded
  for (const Isa isa : sets_here()) {
    const auto one = run(config, q, k, v, {}, isa), two = run(config, q, far, v, {}, isa);
    double most = 0;
    for (size_t i = 0; i < one.size(); ++i) most = std::max(most, std::abs(static_cast<double>(one[i] - two[i])));
    CHECK(most <= 0.02);
  }
}
