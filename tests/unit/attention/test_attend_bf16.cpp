// SPDX-License-Identifier: Apache-2.0
// bf16 attention: the vector version against fp64 sums of the same bf16 numbers, with the error of the plain version as the
// measure; the packed layouts bit for bit; the whole plan against the oracle.
#include <limits>

#include "attention_case.h"
#include "kernels/attention_ops.h"

using namespace sla2;
using namespace sla2::test;
using kernels::AttentionOps;

namespace {

struct Case {
  int64_t rows = 0, keys = 0, dim = 0, block_k = 0;
  bool list = false, bias = false;
  float spread = 1;
};

struct Result {
  std::vector<float> m, l, out;
};

std::vector<bf16_t> narrowed(const AttentionOps& ops, const std::vector<float>& x) {
  std::vector<bf16_t> out(x.size());
  ops.narrow_rows_bf16(x.data(), static_cast<int64_t>(x.size()), out.data());
  return out;
}

std::vector<int32_t> list_of(const Case& c) {
  const int64_t blocks = (c.keys + c.block_k - 1) / c.block_k;
  std::vector<int32_t> list;
  for (int64_t j = 0; j < blocks; ++j)
    if (!c.list || j % 3 != 1) list.push_back(static_cast<int32_t>(j));
  return list;
}

Result attend(const AttentionOps& ops, const Case& c, const std::vector<float>& q, const std::vector<float>& k,
              const std::vector<float>& v, const std::vector<float>& bias, float scale) {
  const int64_t blocks = (c.keys + c.block_k - 1) / c.block_k, width = kernels::panels_of(c.dim) * kernels::kPanel;
  const auto room = [](int64_t count) { return std::vector<bf16_t>(static_cast<size_t>(count), bf16_t{0x7fc0}); };
  auto keys = room(blocks * c.block_k * c.dim), values = room(blocks * c.block_k * width), weights = room(c.rows * c.block_k);
  for (int64_t j = 0; j < blocks; ++j) {
    const int64_t n = std::min(c.block_k, c.keys - j * c.block_k), at = j * c.block_k * c.dim;
    ops.pack_keys_bf16(k.data() + at, n, c.dim, c.block_k, keys.data() + at);
    ops.pack_values_bf16(v.data() + at, n, c.dim, c.block_k, values.data() + j * c.block_k * width);
  }
  const auto queries = narrowed(ops, q);
  std::vector<float> tail(static_cast<size_t>(c.block_k), 0.0F);
  for (int64_t t = c.keys - (blocks - 1) * c.block_k; t < c.block_k; ++t) tail[static_cast<size_t>(t)] = -INFINITY;
  const auto list = list_of(c);
  std::vector<float> acc(static_cast<size_t>(c.rows * width), NAN), sums(static_cast<size_t>(c.rows * kernels::kPanel), NAN);
  Result r{std::vector<float>(static_cast<size_t>(c.rows)), std::vector<float>(static_cast<size_t>(c.rows)), {}};
  ops.attend_bf16({c.rows, c.dim, c.block_k, c.keys, queries.data(), keys.data(), values.data(), c.list ? list.data() : nullptr,
                   static_cast<int64_t>(list.size()), bias.empty() ? nullptr : bias.data(), tail.data(), scale, r.m.data(),
                   r.l.data(), acc.data(), weights.data(), sums.data()});
  for (int64_t i = 0; i < c.rows; ++i)
    for (int64_t d = 0; d < c.dim; ++d) r.out.push_back(acc[static_cast<size_t>(i * width + d)] / r.l[static_cast<size_t>(i)]);
  return r;
}

/// fp64 attention of bf16 numbers over the listed blocks; log2 of the sum in `lse`.
std::vector<double> truth(const Case& c, const std::vector<float>& q, const std::vector<float>& k, const std::vector<float>& v,
                          const std::vector<float>& bias, double scale, std::vector<double>& lse) {
  const auto at = [](const std::vector<float>& x, int64_t i) {
    return static_cast<double>(bf16_to_f32(f32_to_bf16(x[static_cast<size_t>(i)])));
  };
  std::vector<double> out;
  for (int64_t i = 0; i < c.rows; ++i) {
    std::vector<double> sum(static_cast<size_t>(c.dim), 0.0), logits;
    std::vector<int64_t> tokens;
    double top = -INFINITY, total = 0;
    for (const int32_t j : list_of(c))
      for (int64_t t = j * c.block_k; t < std::min((j + 1) * c.block_k, c.keys); ++t) {
        double s = 0;
        for (int64_t d = 0; d < c.dim; ++d) s += at(q, i * c.dim + d) * at(k, t * c.dim + d);
        logits.push_back(s * scale + (bias.empty() ? 0.0 : static_cast<double>(bias[static_cast<size_t>(t)])));
        tokens.push_back(t);
        top = std::max(top, logits.back());
      }
    for (size_t n = 0; n < logits.size(); ++n) {
      const double w = std::exp2(logits[n] - top);
      total += w;
      for (int64_t d = 0; d < c.dim; ++d) sum[static_cast<size_t>(d)] += w * at(v, tokens[n] * c.dim + d);
    }
    for (const double x : sum) out.push_back(x / total);
    lse.push_back(top + std::log2(total));
  }
  return out;
}

bool has_bf16_kernels() {
  if (active_isa() >= Isa::kAvx512Bf16) return true;
  WARN("skipped: this machine (or SLA2_ISA) has no avx512_bf16");
  return false;
}

}  // namespace

TEST_CASE("bf16 attention against fp64, within twice the error of the plain version", "[kernels]") {
  if (!has_bf16_kernels()) return;
  const AttentionOps plain = kernels::attention_ops(Isa::kScalar), best = kernels::attention_ops(active_isa());
  uint32_t seed = 1;
  for (const int64_t dim : {32, 40, 64, 128, 200})
    for (const int64_t block_k : {16, 32, 64, 128})
      for (const Case& shape : {Case{5, 1, 0, 0}, Case{128, 333, 0, 0, true}, Case{67, 200, 0, 0, false, true},
                                Case{34, 500, 0, 0, true, false, 6}}) {
        Case c = shape;
        c.dim = dim;
        c.block_k = block_k;
        const auto q = normal(c.rows * dim, ++seed, c.spread), k = normal(c.keys * dim, ++seed, c.spread, 0.3F),
                   v = normal(c.keys * dim, ++seed);
        std::vector<float> bias;
        if (c.bias) {
          bias = normal((c.keys + block_k - 1) / block_k * block_k, ++seed);
          bias[0] = -INFINITY;
          std::fill(bias.begin() + c.keys, bias.end(), -INFINITY);
        }
        const double scale = 1.4427 / std::sqrt(static_cast<double>(dim));
        std::vector<double> lse;
        const auto exact = truth(c, q, k, v, bias, static_cast<double>(static_cast<float>(scale)), lse);
        const Result one = attend(plain, c, q, k, v, bias, static_cast<float>(scale)),
                     two = attend(best, c, q, k, v, bias, static_cast<float>(scale));
        INFO("rows " << c.rows << ", keys " << c.keys << ", D " << dim << ", block " << block_k << ": ours "
                     << worst(two.out, exact) << ", plain " << worst(one.out, exact));
        CHECK(worst(two.out, exact) <= 2 * worst(one.out, exact) + 1e-6);
        double lse_error = 0, size = 1;
        for (size_t i = 0; i < lse.size(); ++i) {
          size = std::max(size, std::abs(lse[i]));
          lse_error =
              std::max(lse_error, std::abs(static_cast<double>(two.m[i]) + std::log2(static_cast<double>(two.l[i])) - lse[i]));
        }
        CHECK(lse_error <= 0x1p-8 + 4e-6 * size);  // every weight is off by at most 2^-9 of itself
      }
}

TEST_CASE("bf16 packing is the same bits on every instruction set", "[kernels]") {
  const AttentionOps plain = kernels::attention_ops(Isa::kScalar);
  for (const Isa isa : sets_here()) {
    const AttentionOps best = kernels::attention_ops(isa);
    for (const int64_t dim : {32, 40, 128}) {
      for (const int64_t n : {1, 15, 47, 64}) {
        auto rows = normal(n * dim, 3);
        rows[static_cast<size_t>(n * dim / 2)] = NAN, rows[static_cast<size_t>(n * dim / 3)] = -INFINITY;
        std::memcpy(&rows[5], "\x01\x00\x80\x7f", sizeof rows[5]);  // a NaN whose upper half alone would be infinity
        std::vector<bf16_t> one(static_cast<size_t>(64 * 128), bf16_t{1}), two = one;
        plain.pack_keys_bf16(rows.data(), n, dim, 64, one.data());
        best.pack_keys_bf16(rows.data(), n, dim, 64, two.data());
        CHECK(one == two);
        plain.pack_values_bf16(rows.data(), n, dim, 64, one.data());
        best.pack_values_bf16(rows.data(), n, dim, 64, two.data());
        CHECK(one == two);
        CHECK(narrowed(plain, rows) == narrowed(best, rows));
      }
    }
  }
}

TEST_CASE("bf16 attention: masks, empty rows, NaN, a rising maximum", "[kernels]") {
  std::vector<Isa> sets{Isa::kScalar};
  if (has_bf16_kernels()) sets.push_back(active_isa());
  for (const Isa isa : sets) {
    const AttentionOps ops = kernels::attention_ops(isa);
    const Case c{3, 130, 64, 64};
    const auto q = normal(c.rows * c.dim, 1), v = normal(c.keys * c.dim, 3);
    auto k = normal(c.keys * c.dim, 2);
    const Result none = attend(ops, c, q, k, v, std::vector<float>(192, -INFINITY), 0.2F);
    for (size_t i = 0; i < 3; ++i) {
      CHECK(none.m[i] == -INFINITY);
      CHECK(none.l[i] == 0);
    }
    auto rising = k;
    for (int64_t t = 0; t < c.keys; ++t)
      for (int64_t d = 0; d < c.dim; ++d)
        rising[static_cast<size_t>(t * c.dim + d)] = q[static_cast<size_t>(d)] * static_cast<float>(t) / 8;
    std::vector<double> lse;
    const auto exact = truth(c, q, rising, v, {}, static_cast<double>(0.2F), lse);
    CHECK(worst(attend(ops, c, q, rising, v, {}, 0.2F).out, exact) <= 0.02);
    k[static_cast<size_t>(129 * c.dim + 5)] = NAN;
    const Result bad = attend(ops, c, q, k, v, {}, 0.2F);
    for (const float x : bad.out) CHECK(std::isnan(x));
  }
}

TEST_CASE("bf16 products in a plan: the same blocks, errors of bf16's size", "[attention]") {
  if (!has_bf16_kernels()) return;
  for (const bool sparse : {false, true})
    for (const int64_t dim : {40, 128}) {
      oracle::Problem p;
      p.sparse = sparse;
      p.sparsity = 0.75;
      p.queries = 150;
      p.keys = 333;
      p.dim = dim;
      const auto q = normal(p.queries * dim, 1), k = normal(p.keys * dim, 2, 1, 0.3F), v = normal(p.keys * dim, 3);
      attention::Config config = config_of(p);
      config.products = DType::kBF16;
      const auto exact = oracle::attention<double>(p, q, k, v);
      const double error = worst(run(config, q, k, v), exact);
      INFO("sparse " << sparse << ", D " << dim << ": " << error);
      CHECK(error <= 0.02);
      CHECK(error > 1e-5);  // bf16 products did run
    }
}
