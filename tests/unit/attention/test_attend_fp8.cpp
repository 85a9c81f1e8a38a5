// SPDX-License-Identifier: Apache-2.0
// P·V in FP8: the error against fp64 is of FP8's size and no larger; short sums cut off what they should; zeros and NaN.
#include "attention_case.h"
#include "kernels/attention_ops.h"
#include "kernels/e4m3.h"

using namespace sla2;
using namespace sla2::test;

namespace {

struct Case {
  int64_t rows = 0, keys = 0, dim = 0, block_k = 0;
  kernels::Fp8Sums sums = kernels::Fp8Sums::kTwoLevel;
  [[nodiscard]] int64_t blocks() const { return (keys + block_k - 1) / block_k; }
  [[nodiscard]] int64_t width() const { return kernels::panels_of(dim) * kernels::kPanel; }
};

struct Result {
  std::vector<float> m, l, out;
};

Result attend(const Case& c, const std::vector<float>& q, const std::vector<float>& k, const std::vector<float>& v, float scale) {
  const auto ops = kernels::attention_ops(active_isa());
  const auto size = [](int64_t count) { return static_cast<size_t>(count); };
  std::vector<int8_t> q8(q.size());
  std::vector<uint8_t> k8(size(c.blocks() * c.block_k * c.dim)), v8(size(c.blocks() * c.block_k * c.width()), 99);
  std::vector<float> q_scale(size(c.rows)), k_scale(size(c.blocks())), v_scale(size(c.width()), NAN), largest(size(c.dim), 0.0F);
  std::vector<int32_t> q_offset(size(c.rows));
  ops.quantise_rows_int8(q.data(), c.rows, c.dim, q8.data(), q_scale.data(), q_offset.data());
  for (int64_t j = 0; j < c.blocks(); ++j)
    ops.largest_per_channel(v.data() + j * c.block_k * c.dim, std::min(c.block_k, c.keys - j * c.block_k), c.dim, largest.data());
  for (int64_t j = 0; j < c.blocks(); ++j) {
    const int64_t n = std::min(c.block_k, c.keys - j * c.block_k), at = j * c.block_k * c.dim;
    ops.pack_keys_int8(k.data() + at, n, c.dim, c.block_k, k8.data() + at, &k_scale[size(j)]);
    ops.pack_values_fp8(v.data() + at, n, c.dim, c.block_k, largest.data(), v8.data() + j * c.block_k * c.width(),
                        v_scale.data());
  }
  std::vector<float> acc(size(c.rows * c.width()), NAN);
  Result r{std::vector<float>(size(c.rows)), std::vector<float>(size(c.rows)), {}};
  ops.attend_fp8(
      {{c.rows,  c.dim,      c.block_k, c.keys,  q8.data(), q_scale.data(), q_offset.data(), k8.data(),  k_scale.data(), nullptr,
        nullptr, c.blocks(), nullptr,   nullptr, scale,     r.m.data(),     r.l.data(),      acc.data(), nullptr,        nullptr},
       v8.data(),
       v_scale.data(),
       c.sums});
  for (int64_t i = 0; i < c.rows; ++i)
    for (int64_t d = 0; d < c.dim; ++d) r.out.push_back(acc[size(i * c.width() + d)] / r.l[size(i)]);
  return r;
}

/// fp64 softmax attention of the numbers as they came; log2 of the sum in `lse`.
std::vector<double> truth(const Case& c, const std::vector<float>& q, const std::vector<float>& k, const std::vector<float>& v,
                          double scale, std::vector<double>& lse) {
  const auto at = [](const std::vector<float>& x, int64_t i) { return static_cast<double>(x[static_cast<size_t>(i)]); };
  std::vector<double> out;
  for (int64_t i = 0; i < c.rows; ++i) {
    std::vector<double> sum(static_cast<size_t>(c.dim), 0.0);
    double total = 0;
    for (int64_t t = 0; t < c.keys; ++t) {
      double s = 0;
      for (int64_t d = 0; d < c.dim; ++d) s += at(q, i * c.dim + d) * at(k, t * c.dim + d);
      const double w = std::exp2(s * scale);
      total += w;
      for (int64_t d = 0; d < c.dim; ++d) sum[static_cast<size_t>(d)] += w * at(v, t * c.dim + d);
    }
    for (const double x : sum) out.push_back(x / total);
    lse.push_back(std::log2(total));
  }
  return out;
}

/// Σ |x - truth| / Σ |truth|
double relative_l1(const std::vector<float>& x, const std::vector<double>& truth) {
  double error = 0, size = 0;
  for (size_t i = 0; i < x.size(); ++i) error += std::abs(static_cast<double>(x[i]) - truth[i]), size += std::abs(truth[i]);
  return error / size;
}

}  // namespace

TEST_CASE("FP8 attention is as good as published for it", "[kernels]") {
  // 0.0186 relative L1 is what SageAttention2++ reports, 0.03 what this project promises.
  for (const int64_t dim : {32, 72, 128})
    for (const int64_t block_k : {16, 64, 128})
      for (const kernels::Fp8Sums sums : {kernels::Fp8Sums::kExact, kernels::Fp8Sums::kTwoLevel}) {
        const Case c{33, 200, dim, block_k, sums};
        const auto q = normal(c.rows * dim, 1, 1.5F), k = normal(c.keys * dim, 2), v = normal(c.keys * dim, 3, 1, 0.2F);
        const auto scale = static_cast<float>(1.4427 / std::sqrt(static_cast<double>(dim)));
        std::vector<double> lse;
        const auto exact = truth(c, q, k, v, static_cast<double>(scale), lse);
        const Result r = attend(c, q, k, v, scale);
        INFO("D " << dim << ", block " << block_k << ": " << relative_l1(r.out, exact));
        CHECK(relative_l1(r.out, exact) <= 0.03);
        CHECK(relative_l1(r.out, exact) >= 0.002);  // FP8 products did run
        for (size_t i = 0; i < lse.size(); ++i)
          CHECK(std::abs(static_cast<double>(r.m[i]) + std::log2(static_cast<double>(r.l[i])) - lse[i]) <= 0.03);
      }
}

TEST_CASE("short sums of FP8 products keep 13 mantissa bits and begin anew every 64 keys", "[kernels]") {
  // Queries of zeros: every P is 448. Values are 448 steps and s steps of 1: 448·448 = 200,704 has a unit of 16 in 13 bits.
  const auto sum_of = [](kernels::Fp8Sums sums, int64_t keys, int64_t block_k, const std::vector<float>& steps) {
    const Case c{1, keys, 32, block_k, sums};
    std::vector<float> v(static_cast<size_t>(keys * 32), 0.0F);
    for (size_t t = 0; t < steps.size(); ++t) v[t * 32] = steps[t];
    const Result r = attend(c, std::vector<float>(32, 0.0F), std::vector<float>(v.size(), 1.0F), v, 1);
    CHECK(r.l[0] == static_cast<float>(keys));
    return static_cast<double>(r.out[0]) * static_cast<double>(keys) * 448;  // Σ P̂·V̂ with steps of 1
  };
  using kernels::Fp8Sums;
  const double least = 448 * 0x1p-6, large = 448 * 448;  // 7 and 200,704
  CHECK(sum_of(Fp8Sums::kExact, 2, 16, {448, 0x1p-6F}) == Approx(large + least).epsilon(1e-6));
  CHECK(sum_of(Fp8Sums::kTwoLevel, 2, 16, {448, 0x1p-6F}) == Approx(large).epsilon(1e-7));
  CHECK(sum_of(Fp8Sums::kTwoLevel, 2, 16, {-448, -0x1p-6F}) == Approx(-large).epsilon(1e-7));             // towards zero
  CHECK(sum_of(Fp8Sums::kTwoLevel, 3, 16, {448, 0x1p-5F, 0x1p-6F}) == Approx(large + 16).epsilon(1e-7));  // 14 + 7 -> 16
  // Keys 32 … 63 are another instruction of the same sum: 14 and 7 are cut off one after the other.
  std::vector<float> apart(64, 0.0F);
  apart[0] = 448, apart[5] = 0x1p-5F, apart[40] = 0x1p-6F;
  CHECK(sum_of(Fp8Sums::kTwoLevel, 64, 64, apart) == Approx(large).epsilon(1e-7));
  // Key 64 begins a new sum, added in fp32.
  std::vector<float> anew(128, 0.0F);
  anew[0] = 448, anew[64] = 0x1p-6F;
  CHECK(sum_of(Fp8Sums::kTwoLevel, 128, 128, anew) == Approx(large + least).epsilon(1e-6));
}

TEST_CASE("FP8 attention: zeros, NaN of a value, of a query, of a key", "[kernels]") {
  const Case c{5, 70, 40, 32};
  const auto q = normal(c.rows * c.dim, 1), k = normal(c.keys * c.dim, 2);
  auto v = normal(c.keys * c.dim, 3);
  for (int64_t t = 0; t < c.keys; ++t) v[static_cast<size_t>(t * c.dim + 3)] = 0;
  const Result clean = attend(c, q, k, v, 0.2F);
  for (size_t i = 0; i < clean.out.size(); ++i) CHECK((i % 40 == 3 ? clean.out[i] == 0 : clean.out[i] != 0));
  for (const float bad : {NAN, INFINITY}) {
    for (const int64_t channel : {3, 9}) {
      auto x = v;
      x[static_cast<size_t>(69 * c.dim + channel)] = bad;
      const Result r = attend(c, q, k, x, 0.2F);
      for (size_t i = 0; i < r.out.size(); ++i) CHECK(std::isnan(r.out[i]) == (static_cast<int64_t>(i % 40) == channel));
    }
    auto x = q;
    x[static_cast<size_t>(2 * c.dim)] = bad;
    const Result r = attend(c, x, k, v, 0.2F);
    for (size_t i = 0; i < r.out.size(); ++i) CHECK(std::isnan(r.out[i]) == (i / 40 == 2));
    x = k;
    x[7] = bad;
    for (const float y : attend(c, q, x, v, 0.2F).out) CHECK(std::isnan(y));
  }
}

TEST_CASE("e4m3: every code survives, halves go to even", "[kernels]") {
  for (int code = 0; code < 256; ++code) {
    const float x = f8e4m3_to_f32(static_cast<uint8_t>(code));
    CHECK(kernels::f32_to_e4m3(x) == code);
    if (code % 128 >= 126) continue;
    const float next = f8e4m3_to_f32(static_cast<uint8_t>(code + 1)), half = x + (next - x) / 2;
    CHECK(kernels::f32_to_e4m3(half) == code + code % 2);
    CHECK(kernels::f32_to_e4m3(std::nextafter(half, x)) == code);
    CHECK(kernels::f32_to_e4m3(std::nextafter(half, next)) == code + 1);
  }
  for (const float x : {448.0F, 464.0F, 500.0F, 3e38F, INFINITY}) {
    CHECK(kernels::f32_to_e4m3(x) == 0x7e);
    CHECK(kernels::f32_to_e4m3(-x) == 0xfe);
  }
  CHECK(kernels::f32_to_e4m3(NAN) == 0x7f);
}
