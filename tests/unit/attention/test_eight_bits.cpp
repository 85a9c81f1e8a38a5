// SPDX-License-Identifier: Apache-2.0
// Plans with 8 bits against the oracle: what the project promises for them, with values in bf16 and in the model of FP8.
#include "attention_case.h"

using namespace sla2;
using namespace sla2::test;

TEST_CASE("8 bits in a plan: relative L1 of at most 0.03, cosine of at least 0.9995", "[attention]") {
  if (active_isa() < Isa::kAvx512Bf16) {
    WARN("skipped: 8 bits run on avx512_bf16 only, fp32 takes their place");
    return;
  }
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
        const auto ours = run(config, q, k, v);
        double error = 0, size = 0, both = 0, one = 0, two = 0;
        for (size_t i = 0; i < ours.size(); ++i) {
          const double x = static_cast<double>(ours[i]);
          error += std::abs(x - exact[i]);
          size += std::abs(exact[i]);
          both += x * exact[i];
          one += x * x;
          two += exact[i] * exact[i];
        }
        INFO("sparse " << sparse << ", D " << dim << ", FP8 " << fp8 << ": relative L1 " << error / size << ", 1 - cosine "
                       << 1 - both / std::sqrt(one * two));
        if (!fp8) CHECK(error / size <= 0.03);
        CHECK(error / size > 1e-4);  // 8 bits did run
        CHECK(both / std::sqrt(one * two) >= (fp8 ? 0.999 : 0.9995));
        results.push_back(ours);
      }
      CHECK(results[0] != results[1]);
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
  if (active_isa() < Isa::kAvx512Bf16) return;
  config.bits = 8;
  const auto q = normal(p.queries * 64, 1), k = normal(p.keys * 64, 2), v = normal(p.keys * 64, 3);
  auto far = k;
  for (size_t i = 0; i < far.size(); ++i) far[i] += static_cast<float>(i % 64) * 4;  // K minus its mean is what is rounded
  const auto one = run(config, q, k, v), two = run(config, q, far, v);
  double most = 0;
  for (size_t i = 0; i < one.size(); ++i) most = std::max(most, std::abs(static_cast<double>(one[i] - two[i])));
  CHECK(most <= 0.02);
}
