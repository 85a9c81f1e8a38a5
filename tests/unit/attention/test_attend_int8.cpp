// SPDX-License-Identifier: Apache-2.0
// Attention with eight-bit Q·K: integer scores exactly; the rest against fp64 sums of the same integers, with the error of the
// plain version as the measure; packed layouts bit for bit; what becomes of zeros, tiny and huge numbers, NaN and infinity.
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

  [[nodiscard]] int64_t blocks() const { return (keys + block_k - 1) / block_k; }
  [[nodiscard]] int64_t width() const { return kernels::panels_of(dim) * kernels::kPanel; }
  [[nodiscard]] std::vector<int32_t> listed() const {
    std::vector<int32_t> result;
    for (int64_t j = 0; j < blocks(); ++j)
      if (!list || j % 3 != 1) result.push_back(static_cast<int32_t>(j));
    return result;
  }
};

/// Queries, keys and values as the op reads them.
struct Packed {
  std::vector<int8_t> q;
  std::vector<float> q_scale, key_scale;
  std::vector<int32_t> q_offset;
  std::vector<uint8_t> keys;
  std::vector<bf16_t> values;

  [[nodiscard]] int32_t key(const Case& c, int64_t token, int64_t channel) const {
    const int64_t at = (token / c.block_k * c.dim / 4 + channel / 4) * c.block_k * 4 + token % c.block_k * 4 + channel % 4;
    return keys[static_cast<size_t>(at)] - 128;
  }
  [[nodiscard]] int64_t score(const Case& c, int64_t row, int64_t token) const {
    int64_t sum = 0;
    for (int64_t d = 0; d < c.dim; ++d) sum += int64_t{q[static_cast<size_t>(row * c.dim + d)]} * key(c, token, d);
    return sum;
  }
};

Packed pack(const AttentionOps& ops, const Case& c, const std::vector<float>& q, const std::vector<float>& k,
            const std::vector<float>& v) {
  const auto size = [](int64_t count) { return static_cast<size_t>(count); };
  Packed p{std::vector<int8_t>(size(c.rows * c.dim), 99),
           std::vector<float>(size(c.rows), 99.0F),
           std::vector<float>(size(c.blocks()), 99.0F),
           std::vector<int32_t>(size(c.rows), 99),
           std::vector<uint8_t>(size(c.blocks() * c.block_k * c.dim), 99),
           std::vector<bf16_t>(size(c.blocks() * c.block_k * c.width()), bf16_t{0x7fc0})};
  ops.quantise_rows_int8(q.data(), c.rows, c.dim, p.q.data(), p.q_scale.data(), p.q_offset.data());
  for (int64_t j = 0; j < c.blocks(); ++j) {
    const int64_t n = std::min(c.block_k, c.keys - j * c.block_k), at = j * c.block_k * c.dim;
    ops.pack_keys_int8(k.data() + at, n, c.dim, c.block_k, p.keys.data() + at, &p.key_scale[size(j)]);
    ops.pack_values_bf16(v.data() + at, n, c.dim, c.block_k, p.values.data() + j * c.block_k * c.width());
  }
  return p;
}

struct Result {
  std::vector<float> m, l, out;
};

Result attend(const AttentionOps& ops, const Case& c, const Packed& p, const std::vector<float>& bias, float scale) {
  std::vector<float> tail(static_cast<size_t>(c.block_k), 0.0F);
  for (int64_t t = c.keys - (c.blocks() - 1) * c.block_k; t < c.block_k; ++t) tail[static_cast<size_t>(t)] = -INFINITY;
  const auto list = c.listed();
  std::vector<float> acc(static_cast<size_t>(c.rows * c.width()), NAN), sums(static_cast<size_t>(c.rows * kernels::kPanel), NAN);
  std::vector<bf16_t> weights(static_cast<size_t>(c.rows * c.block_k), bf16_t{0x7fc0});
  Result r{std::vector<float>(static_cast<size_t>(c.rows)), std::vector<float>(static_cast<size_t>(c.rows)), {}};
  ops.attend_int8({c.rows,
                   c.dim,
                   c.block_k,
                   c.keys,
                   p.q.data(),
                   p.q_scale.data(),
                   p.q_offset.data(),
                   p.keys.data(),
                   p.key_scale.data(),
                   p.values.data(),
                   c.list ? list.data() : nullptr,
                   static_cast<int64_t>(list.size()),
                   bias.empty() ? nullptr : bias.data(),
                   tail.data(),
                   scale,
                   r.m.data(),
                   r.l.data(),
                   acc.data(),
                   weights.data(),
                   sums.data()});
  for (int64_t i = 0; i < c.rows; ++i)
    for (int64_t d = 0; d < c.dim; ++d)
      r.out.push_back(acc[static_cast<size_t>(i * c.width() + d)] / r.l[static_cast<size_t>(i)]);
  return r;
}

/// fp64 attention of the packed numbers over the listed blocks; log2 of the sum in `lse`.
std::vector<double> truth(const Case& c, const Packed& p, const std::vector<float>& v, const std::vector<float>& bias,
                          double scale, std::vector<double>& lse) {
  std::vector<double> out;
  for (int64_t i = 0; i < c.rows; ++i) {
    std::vector<double> sum(static_cast<size_t>(c.dim), 0.0), logits;
    std::vector<int64_t> tokens;
    double top = -INFINITY, total = 0;
    for (const int32_t j : c.listed())
      for (int64_t t = j * c.block_k; t < std::min((j + 1) * c.block_k, c.keys); ++t) {
        const double step =
            static_cast<double>(p.q_scale[static_cast<size_t>(i)]) * static_cast<double>(p.key_scale[static_cast<size_t>(j)]);
        logits.push_back(static_cast<double>(p.score(c, i, t)) * step * scale +
                         (bias.empty() ? 0.0 : static_cast<double>(bias[static_cast<size_t>(t)])));
        tokens.push_back(t);
        top = std::max(top, logits.back());
      }
    for (size_t n = 0; n < logits.size(); ++n) {
      const double w = std::exp2(logits[n] - top);
      total += w;
      for (int64_t d = 0; d < c.dim; ++d)
        sum[static_cast<size_t>(d)] +=
            w * static_cast<double>(bf16_to_f32(f32_to_bf16(v[static_cast<size_t>(tokens[n] * c.dim + d)])));
    }
    for (const double x : sum) out.push_back(x / total);
    lse.push_back(top + std::log2(total));
  }
  return out;
}

/// Every instruction set of this machine that has a version of its own.
std::vector<Isa> instruction_sets() {
  std::vector<Isa> sets;
  for (const Isa isa : kAllIsas) {
    if (active_isa() >= isa) {
      sets.push_back(isa);
    } else {
      WARN("skipped: this machine (or SLA2_ISA) has no " << isa_name(isa));
    }
  }
  return sets;
}

void check_case(Isa isa, const Case& c, uint32_t seed) {
  const AttentionOps plain = kernels::attention_ops(Isa::kScalar), best = kernels::attention_ops(isa);
  const auto q = normal(c.rows * c.dim, seed, c.spread), k = normal(c.keys * c.dim, seed + 1, c.spread, 0.3F),
             v = normal(c.keys * c.dim, seed + 2);
  std::vector<float> bias;
  if (c.bias) {
    bias = normal(c.blocks() * c.block_k, seed + 3);
    bias[0] = -INFINITY;
    std::fill(bias.begin() + c.keys, bias.end(), -INFINITY);
  }
  const auto scale = static_cast<float>(1.4427 / std::sqrt(static_cast<double>(c.dim)));
  const Packed p = pack(best, c, q, k, v);
  std::vector<double> lse;
  const auto exact = truth(c, p, v, bias, static_cast<double>(scale), lse);
  const Result one = attend(plain, c, p, bias, scale), two = attend(best, c, p, bias, scale);
  INFO(isa_name(isa) << ", rows " << c.rows << ", keys " << c.keys << ", D " << c.dim << ", block " << c.block_k << ": ours "
                     << worst(two.out, exact) << ", plain " << worst(one.out, exact));
  CHECK(worst(two.out, exact) <= 2 * worst(one.out, exact) + 1e-6);
  double lse_error = 0, size = 1;
  for (size_t i = 0; i < lse.size(); ++i) {
    size = std::max(size, std::abs(lse[i]));
    lse_error = std::max(lse_error, std::abs(static_cast<double>(two.m[i]) + std::log2(static_cast<double>(two.l[i])) - lse[i]));
  }
  CHECK(lse_error <= 0x1p-8 + 4e-6 * size);  // every weight is off by at most 2^-9 of itself
}

}  // namespace

TEST_CASE("int8 attention against fp64 of the same integers, within twice the error of the plain version", "[kernels]") {
  for (const Isa isa : instruction_sets()) {
    if (isa == Isa::kScalar) continue;
    uint32_t seed = 1;
    for (int64_t dim = 32; dim <= 256; dim += 8)
      for (int64_t block_k = 16; block_k <= 128; block_k += 16) {
        check_case(isa, {5, 1, dim, block_k}, seed += 4);
        check_case(isa, {1, 131, dim, block_k, true}, seed += 4);
        check_case(isa, {7, 70, dim, block_k, false, true, 3}, seed += 4);
      }
    for (const int64_t dim : {32, 40, 128, 200})
      for (const int64_t block_k : {16, 48, 64, 128}) {
        check_case(isa, {128, 333, dim, block_k, true}, seed += 4);
        check_case(isa, {67, 200, dim, block_k, false, true}, seed += 4);
        check_case(isa, {34, 500, dim, block_k, true, false, 6}, seed += 4);
      }
  }
}

TEST_CASE("int8 scores are exact integers", "[kernels]") {
  // With every scale 1 and all keys but one masked, m is that key's score.
  for (const Isa isa : instruction_sets()) {
    const AttentionOps ops = kernels::attention_ops(isa);
    for (const int64_t dim : {32, 104, 256}) {
      const Case c{6, 77, dim, 48};
      auto q = normal(c.rows * dim, 5), k = normal(c.keys * dim, 6);
      for (int64_t d = 0; d < dim; ++d) {  // the largest and the least sum there is
        q[static_cast<size_t>(d)] = q[static_cast<size_t>(dim + d)] = 9;
        k[static_cast<size_t>(d)] = k[static_cast<size_t>(48 * dim + d)] = 9;
        k[static_cast<size_t>(dim + d)] = k[static_cast<size_t>(49 * dim + d)] = -9;
      }
      Packed p = pack(ops, c, q, k, normal(c.keys * dim, 7));
      std::fill(p.q_scale.begin(), p.q_scale.end(), 1.0F);
      std::fill(p.key_scale.begin(), p.key_scale.end(), 1.0F);
      CHECK(p.score(c, 0, 0) == 127 * 127 * dim);
      CHECK(p.score(c, 0, 1) == -127 * 127 * dim);
      for (int64_t t = 0; t < c.keys; ++t) {
        std::vector<float> bias(static_cast<size_t>(c.blocks() * c.block_k), -INFINITY);
        bias[static_cast<size_t>(t)] = 0;
        const Result r = attend(ops, c, p, bias, 1.0F);
        for (int64_t i = 0; i < c.rows; ++i) REQUIRE(r.m[static_cast<size_t>(i)] == static_cast<float>(p.score(c, i, t)));
      }
    }
  }
}

TEST_CASE("int8 packing is the same bits on every instruction set, and rounds to the nearest even step", "[kernels]") {
  const AttentionOps plain = kernels::attention_ops(Isa::kScalar);
  const auto same = [](float x, float y) { return x == y || (std::isnan(x) && std::isnan(y)); };
  for (const Isa isa : instruction_sets()) {
    const AttentionOps ops = kernels::attention_ops(isa);
    for (int64_t dim = 32; dim <= 256; dim += 8)
      for (const int64_t n : {1, 15, 47, 64})
        for (const float spread : {1.0F, 1e-20F, 1e36F, 1e-42F, 0.0F}) {
          const Case c{n, n, dim, 64};
          auto x = normal(n * dim, 3, spread);
          if (n == 15) x[static_cast<size_t>(3 * dim + 9)] = NAN;
          if (n == 47) x[static_cast<size_t>(46 * dim + dim - 1)] = -INFINITY;
          const Packed one = pack(plain, c, x, x, x), two = pack(ops, c, x, x, x);
          CHECK(one.q == two.q);
          CHECK(one.q_offset == two.q_offset);
          CHECK(one.keys == two.keys);
          CHECK(same(one.key_scale[0], two.key_scale[0]));
          CHECK(std::equal(one.q_scale.begin(), one.q_scale.end(), two.q_scale.begin(), same));
          CHECK(std::isnan(two.key_scale[0]) == (n == 15 || n == 47));
          for (int64_t t = 0; t < n; ++t) {
            CHECK(std::isnan(two.q_scale[static_cast<size_t>(t)]) == ((n == 15 && t == 3) || (n == 47 && t == 46)));
            int32_t sum = 0;
            for (int64_t d = 0; d < dim; ++d) sum += two.q[static_cast<size_t>(t * dim + d)];
            CHECK(two.q_offset[static_cast<size_t>(t)] == -128 * sum);
          }
        }
    const Case c{1, 1, 32, 16};
    std::vector<float> x(32, 0.0F);
    x[0] = -127, x[1] = 0.5F, x[2] = 1.5F, x[3] = -2.5F, x[4] = 126.4F;
    const Packed p = pack(ops, c, x, x, x);
    CHECK(p.q_scale[0] == 1);
    const int expected[] = {-127, 0, 2, -2, 126, 0};
    for (int64_t d = 0; d < 6; ++d) {
      CHECK(p.q[static_cast<size_t>(d)] == expected[d]);
      CHECK(p.key(c, 0, d) == expected[d]);
    }
  }
}

TEST_CASE("int8 attention: masks, empty rows, zeros, huge numbers, a rising maximum", "[kernels]") {
  for (const Isa isa : instruction_sets()) {
    const AttentionOps ops = kernels::attention_ops(isa);
    const Case c{3, 130, 64, 64};
    const auto q = normal(c.rows * c.dim, 1), k = normal(c.keys * c.dim, 2), v = normal(c.keys * c.dim, 3);
    const Result none = attend(ops, c, pack(ops, c, q, k, v), std::vector<float>(192, -INFINITY), 0.2F);
    for (size_t i = 0; i < 3; ++i) {
      CHECK(none.m[i] == -INFINITY);
      CHECK(none.l[i] == 0);
    }
    const std::vector<float> zeros(q.size(), 0.0F);
    const Result flat = attend(ops, c, pack(ops, c, zeros, k, v), {}, 0.2F);
    for (size_t i = 0; i < 3; ++i) {
      CHECK(flat.m[i] == 0);
      CHECK(flat.l[i] == 130);
    }
    auto rising = k, huge = k;
    for (int64_t t = 0; t < c.keys; ++t)
      for (int64_t d = 0; d < c.dim; ++d) {
        rising[static_cast<size_t>(t * c.dim + d)] = q[static_cast<size_t>(d)] * static_cast<float>(t) / 8;
        huge[static_cast<size_t>(t * c.dim + d)] *= 1e30F;
      }
    for (const auto& keys : {rising, huge}) {
      const Packed p = pack(ops, c, q, keys, v);
      std::vector<double> lse;
      const auto exact = truth(c, p, v, {}, static_cast<double>(0.2F), lse);
      CHECK(worst(attend(ops, c, p, {}, 0.2F).out, exact) <= 0.02);
    }
  }
}

TEST_CASE("int8 attention: NaN reaches the rows that depend on it and no other", "[kernels]") {
  for (const Isa isa : instruction_sets()) {
    const AttentionOps ops = kernels::attention_ops(isa);
    for (const float bad : {NAN, INFINITY})
      for (const bool list : {false, true}) {
        const Case c{9, 130, 40, 32, list};  // the list leaves out keys 32 … 63 and 128 … 129
        const auto q = normal(c.rows * c.dim, 1), k = normal(c.keys * c.dim, 2), v = normal(c.keys * c.dim, 3);
        const Result clean = attend(ops, c, pack(ops, c, q, k, v), {}, 0.2F);
        auto q_bad = q;
        q_bad[static_cast<size_t>(4 * c.dim + 5)] = bad;
        const Result one = attend(ops, c, pack(ops, c, q_bad, k, v), {}, 0.2F);
        for (int64_t i = 0; i < c.rows; ++i) {
          CHECK(std::isnan(one.l[static_cast<size_t>(i)]) == (i == 4));
          for (int64_t d = 0; d < c.dim; ++d) {
            const auto at = static_cast<size_t>(i * c.dim + d);
            CHECK(std::isnan(one.out[at]) == (i == 4));
            if (i != 4) CHECK(std::abs(one.out[at] - clean.out[at]) <= 1e-6);
          }
        }
        for (const int64_t token : {int64_t{0}, int64_t{40}, int64_t{129}}) {
          auto k_bad = k;
          k_bad[static_cast<size_t>(token * c.dim + 5)] = bad;
          const bool seen = !list || token == 0;
          for (const float x : attend(ops, c, pack(ops, c, q, k_bad, v), {}, 0.2F).out) CHECK(std::isnan(x) == seen);
        }
        auto v_bad = v;
        v_bad[7] = NAN;
        const Result three = attend(ops, c, pack(ops, c, q, k, v_bad), {}, 0.2F);
        for (size_t i = 0; i < three.out.size(); ++i) CHECK(std::isnan(three.out[i]) == (i % 40 == 7));
      }
  }
}
