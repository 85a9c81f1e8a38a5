// SPDX-License-Identifier: Apache-2.0
// The ops by themselves: vector versions against the reference, the reference against the definition.
#include <limits>

#include "attention_case.h"
#include "kernels/attention_ops.h"
#include "kernels/top_blocks.h"

using namespace sla2;
using namespace sla2::test;

void check_panel_products(const kernels::AttentionOps& best) {
  for (int64_t rows = 1; rows <= 40; ++rows)
    for (const int64_t depth : {1, 7, 64})
      for (const bool transposed : {false, true})
        for (const bool accumulate : {false, true}) {
          const auto a = normal(rows * depth, 1), b = normal(depth * kernels::kPanel, 2), start = normal(rows * 20, 3);
          auto c = start;
          const int64_t a_row = transposed ? 1 : depth, a_step = transposed ? rows : 1;
          best.panel_gemm(rows, depth, a.data(), a_row, a_step, b.data(), c.data(), 20, accumulate);
          bool within = true;
          for (int64_t r = 0; r < rows; ++r)
            for (int64_t n = 0; n < 20; ++n) {
              double sum = n >= kernels::kPanel || accumulate ? static_cast<double>(start[static_cast<size_t>(r * 20 + n)]) : 0;
              double magnitude = std::abs(sum);
              if (n < kernels::kPanel)
                for (int64_t x = 0; x < depth; ++x) {
                  const double product = static_cast<double>(a[static_cast<size_t>(r * a_row + x * a_step)]) *
                                         static_cast<double>(b[static_cast<size_t>(x * kernels::kPanel + n)]);
                  sum += product;
                  magnitude += std::abs(product);
                }
              // The textbook bound of a sum of `depth` fused products and one addition.
              const double bound = static_cast<double>(depth + 1) * 0x1p-24 * magnitude;
              within = within && std::abs(sum - static_cast<double>(c[static_cast<size_t>(r * 20 + n)])) <= bound;
            }
          CHECK(within);
        }
}

TEST_CASE("panel product, every row count", "[kernels]") {
  for (const Isa isa : sets_here()) {
    INFO(isa_name(isa));
    check_panel_products(kernels::attention_ops(isa));
  }
}

void check_exp2(const kernels::AttentionOps& best) {
  // A row of one tile with maximum 0 gives 2^x itself.
  constexpr int64_t kCols = 16;
  double most = 0;
  for (int step = 0; step < 200000; ++step) {
    float s[kCols] = {};
    for (int64_t n = 1; n < kCols; ++n) s[n] = -static_cast<float>(step * (kCols - 1) + n) * (126.0F / (200000.0F * kCols));
    float x[kCols];
    std::copy_n(s, kCols, x);
    float m = -INFINITY, l = 0, rescale = 0;
    best.online_softmax(1, kCols, x, kCols, nullptr, &m, &l, &rescale);
    for (int64_t n = 0; n < kCols; ++n) {
      const double truth = std::exp2(static_cast<double>(s[n]));
      const float near = static_cast<float>(truth);
      const double ulp = static_cast<double>(std::nextafter(near, 2.0F)) - static_cast<double>(near);
      most = std::max(most, std::abs(static_cast<double>(x[n]) - truth) / ulp);
    }
  }
  INFO("largest error " << most << " ulp");
  CHECK(most <= 2);
}

TEST_CASE("2^x of the softmax is within 2 ulp", "[kernels]") {
  for (const Isa isa : sets_here()) {
    INFO(isa_name(isa));
    check_exp2(kernels::attention_ops(isa));
  }
}

TEST_CASE("online softmax: masks, empty rows, NaN", "[kernels]") {
  constexpr float kNone = -std::numeric_limits<float>::infinity();
  for (const Isa isa : sets_here()) {
    const kernels::AttentionOps ops = kernels::attention_ops(isa);
    std::vector<float> s(32, 1.0F), bias(16, 0.0F);
    std::fill(bias.begin() + 4, bias.end(), kNone);
    std::fill(s.begin() + 16, s.end(), kNone);
    float m[2] = {kNone, kNone}, l[2] = {}, rescale[2] = {};
    ops.online_softmax(2, 16, s.data(), 16, bias.data(), m, l, rescale);
    CHECK(m[0] == 1);
    CHECK(l[0] == 4);
    CHECK(m[1] == kNone);
    CHECK(l[1] == 0);
    CHECK(s[3] == 1);
    CHECK(s[4] == 0);
    CHECK(s[20] == 0);
    std::fill(s.begin(), s.end(), 0.0F);
    s[7] = NAN;
    ops.online_softmax(1, 16, s.data(), 16, nullptr, m, l, rescale);
    CHECK(std::isnan(l[0]));
  }
}

TEST_CASE("router scores and block sums are the same bits on every instruction set", "[kernels]") {
  const kernels::AttentionOps plain = kernels::attention_ops(Isa::kScalar);
  const auto q = normal(72, 1), keys = normal(72 * 24, 2);
  std::vector<double> one(24), two(24);
  plain.route_scores(72, 24, q.data(), keys.data(), 0.125, one.data());
  const std::vector<int32_t> list{0, 3, 11};
  const std::vector<double> base(100, 3.25);
  std::vector<double> sum(100), other(100);
  for (const Isa isa : sets_here()) {
    const kernels::AttentionOps best = kernels::attention_ops(isa);
    best.route_scores(72, 24, q.data(), keys.data(), 0.125, two.data());
    CHECK(one == two);
    for (const double sign : {1.0, -1.0}) {
      plain.block_sum(100, keys.data(), 140, list.data(), 3, sign, base.data(), sum.data());
      best.block_sum(100, keys.data(), 140, list.data(), 3, sign, base.data(), other.data());
      CHECK(sum == other);
    }
  }
}

TEST_CASE("top blocks: ties to the lowest index, NaN first, both parts ascending", "[kernels]") {
  const std::vector<double> scores{1, 5, 5, 0, 5, NAN};
  std::vector<int32_t> order(6);
  kernels::top_blocks(6, 3, scores.data(), order.data());
  CHECK(order == std::vector<int32_t>{1, 2, 5, 0, 3, 4});
}

TEST_CASE("feature map rows sum to one", "[kernels]") {
  for (const Isa isa : sets_here()) {
    auto x = normal(10 * 40, 1, 5);
    const auto before = x;
    kernels::attention_ops(isa).feature_map(10, 40, x.data());
    for (size_t r = 0; r < 10; ++r) {
      double sum = 0, expected = 0;
      for (size_t c = 0; c < 40; ++c) {
        sum += static_cast<double>(x[r * 40 + c]);
        expected += std::exp(static_cast<double>(before[r * 40 + c]));
      }
      CHECK(sum == Approx(1).margin(1e-6));
      CHECK(static_cast<double>(x[r * 40 + 7]) ==
            Approx(std::exp(static_cast<double>(before[r * 40 + 7])) / expected).epsilon(2e-6));
    }
  }
}
