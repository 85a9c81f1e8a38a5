// SPDX-License-Identifier: Apache-2.0
// The ops of the linear branch in bf16 against fp64 and their plain versions; passes over rows bit for bit on every
// instruction set.
#include <limits>

#include "attention_case.h"
#include "kernels/attention_ops.h"

using namespace sla2;
using namespace sla2::test;
using kernels::AttentionOps;

namespace {

size_t at(int64_t i) { return static_cast<size_t>(i); }
double bf16_at(const std::vector<bf16_t>& x, int64_t i) { return static_cast<double>(bf16_to_f32(x[at(i)])); }
int64_t width_of(int64_t dim) { return kernels::panels_of(dim) * kernels::kPanel; }
std::vector<bf16_t> poisoned(int64_t count) { return std::vector<bf16_t>(at(count), bf16_t{0x7fc0}); }

/// The sets that have kernels here, without the plain one.
std::vector<Isa> vector_sets() {
  std::vector<Isa> sets;
  for (const Isa isa : kAllIsas)
    if (isa != Isa::kScalar && isa <= active_isa()) sets.push_back(isa);
  if (sets.empty()) WARN("skipped: this machine (or SLA2_ISA) has no avx2");
  return sets;
}

struct Keys {
  std::vector<bf16_t> features, values, h;
  std::vector<float> z;
};

Keys keys_of(const AttentionOps& ops, const std::vector<float>& k, const std::vector<float>& v, int64_t n, int64_t dim,
             int64_t block) {
  const int64_t width = width_of(dim);
  Keys x{poisoned(block * width), poisoned(block * width), poisoned(dim * width), std::vector<float>(at(dim), NAN)};
  ops.key_features_bf16(k.data(), n, dim, block, x.features.data(), x.z.data());
  ops.pack_values_bf16(v.data(), n, dim, block, x.values.data());
  ops.key_state_bf16(n, dim, x.features.data(), x.values.data(), x.h.data());
  return x;
}

}  // namespace

TEST_CASE("h_j and z_j in bf16: plain and vector versions against fp64 sums of the same features", "[kernels]") {
  for (const Isa isa : {Isa::kScalar, active_isa()})
    for (const int64_t dim : {32, 40, 64, 128, 200})
      for (const auto& [n, block] : {std::pair<int64_t, int64_t>{64, 64}, {37, 64}, {1, 16}, {128, 128}}) {
        const auto k = normal(n * dim, 1, 2), v = normal(n * dim, 2, 1, 0.3F);
        const Keys x = keys_of(kernels::attention_ops(isa), k, v, n, dim, block);
        const int64_t width = width_of(dim);
        double feature = 0, sums = 0, state = 0;
        for (int64_t c = 0; c < dim; ++c) {
          double z = 0;
          for (int64_t t = 0; t < n; ++t) {
            double total = 0;
            for (int64_t i = 0; i < dim; ++i) total += std::exp(static_cast<double>(k[at(t * dim + i)]));
            const double phi = std::exp(static_cast<double>(k[at(t * dim + c)])) / total;
            const double ours = bf16_at(x.features, (t / 2 * width + c) * 2 + t % 2);
            feature = std::max(feature, std::abs(ours - phi) / phi);
            z += ours;
          }
          sums = std::max(sums, std::abs(static_cast<double>(x.z[at(c)]) - z) / z);
          for (int64_t d = 0; d < dim; ++d) {
            double h = 0, magnitude = 0;
            for (int64_t t = 0; t < n; ++t) {
              const double product =
                  bf16_at(x.features, (t / 2 * width + c) * 2 + t % 2) * bf16_at(x.values, (t / 2 * width + d) * 2 + t % 2);
              h += product;
              magnitude += std::abs(product);
            }
            const double error = std::abs(bf16_at(x.h, (c / 2 * width + d) * 2 + c % 2) - h);
            state = std::max(state, error / (0x1p-8 * std::abs(h) + 0x1p-20 * magnitude));  // half a bf16 step, twice
          }
        }
        INFO(isa_name(isa) << ", n " << n << ", D " << dim << ": " << feature << " " << sums << " " << state);
        CHECK(feature <= 0x1p-8);
        CHECK(sums <= 1e-5);
        CHECK(state <= 1);
        bool rest = true;
        for (int64_t t = n; t < block; ++t)
          for (int64_t c = 0; c < dim; ++c) rest = rest && x.features[at((t / 2 * width + c) * 2 + t % 2)] == 0;
        CHECK(rest);
      }
}

TEST_CASE("totals minus kept states leave exactly the others, to fp32", "[kernels]") {
  for (const Isa isa : {Isa::kScalar, active_isa()}) {
    const AttentionOps ops = kernels::attention_ops(isa);
    const int64_t dim = 40, size = dim * width_of(dim), count = 150;
    const auto wide = normal(size * count, 5);
    auto blocks = poisoned(size * count);
    ops.narrow_rows_bf16(wide.data(), size * count, blocks.data());
    std::vector<int32_t> kept, others;
    for (int32_t j = 0; j < count; ++j) (j % 3 == 1 ? kept : others).push_back(j);
    std::vector<float> total(at(size)), left(at(size)), added(at(size));
    auto rounded = poisoned(size);
    ops.sum_states_bf16({size, blocks.data(), size, nullptr, count, 1.0F, nullptr, nullptr, total.data()});
    ops.sum_states_bf16({size, blocks.data(), size, kept.data(), static_cast<int64_t>(kept.size()), -1.0F, total.data(),
                         rounded.data(), left.data()});
    ops.sum_states_bf16(
        {size, blocks.data(), size, others.data(), static_cast<int64_t>(others.size()), 1.0F, nullptr, nullptr, added.data()});
    double most = 0;
    bool nearest = true;
    for (int64_t i = 0; i < size; ++i) {
      most = std::max(most, std::abs(static_cast<double>(left[at(i)] - added[at(i)])));
      nearest = nearest && rounded[at(i)] == f32_to_bf16(left[at(i / 32 * 32 + i % 2 * 16 + i % 32 / 2)]);
    }
    CHECK(most <= 2e-5);
    CHECK(nearest);
  }
}

TEST_CASE("phi(Q)·H and phi(q)·z in bf16 against fp64", "[kernels]") {
  for (const Isa isa : {Isa::kScalar, active_isa()}) {
    const AttentionOps ops = kernels::attention_ops(isa);
    for (const int64_t dim : {32, 40, 128, 200})
      for (const int64_t rows : {1, 6, 67, 128}) {
        const int64_t width = width_of(dim);
        const auto q = normal(rows * dim, 1, 2), wide = normal(dim * width, 2);
        auto features = poisoned(rows * dim), h = poisoned(dim * width);
        ops.features_bf16(rows, dim, q.data(), features.data());
        ops.narrow_rows_bf16(wide.data(), dim * width, h.data());
        std::vector<float> out(at(rows * width), NAN);
        ops.apply_state_bf16(rows, dim, features.data(), h.data(), out.data());
        std::vector<double> z(at(dim)), all(at(dim)), rest(at(rows)), total(at(rows));
        for (int64_t c = 0; c < dim; ++c) z[at(c)] = 1.0 + static_cast<double>(c), all[at(c)] = 3 * z[at(c)];
        ops.feature_sums_bf16(rows, dim, features.data(), z.data(), all.data(), rest.data(), total.data());
        double most = 0, sums = 0;
        for (int64_t r = 0; r < rows; ++r) {
          double expected_rest = 0;
          for (int64_t c = 0; c < dim; ++c) expected_rest += bf16_at(features, r * dim + c) * z[at(c)];
          sums = std::max({sums, std::abs(rest[at(r)] / expected_rest - 1), std::abs(total[at(r)] / expected_rest / 3 - 1)});
          for (int64_t d = 0; d < dim; ++d) {
            double expected = 0;
            for (int64_t c = 0; c < dim; ++c)
              expected += bf16_at(features, r * dim + c) * bf16_at(h, (c / 2 * width + d) * 2 + c % 2);
            most = std::max(most, std::abs(static_cast<double>(out[at(r * width + d)]) - expected));
          }
        }
        CHECK(most <= 2e-6);
        CHECK(sums <= 1e-13);
      }
  }
}

TEST_CASE("features in bf16: NaN and infinity make a row NaN, others stay", "[kernels]") {
  for (const Isa isa : {Isa::kScalar, active_isa()})
    for (const float bad : {NAN, INFINITY}) {
      auto x = normal(3 * 40, 1);
      x[at(40 + 37)] = bad;
      auto out = poisoned(3 * 40);
      kernels::attention_ops(isa).features_bf16(3, 40, x.data(), out.data());
      for (int64_t c = 0; c < 40; ++c) {
        CHECK(!std::isnan(bf16_at(out, c)));
        if (std::isnan(bad)) CHECK(std::isnan(bf16_at(out, 40 + c)));
        CHECK(!std::isnan(bf16_at(out, 80 + c)));
      }
      CHECK(std::isnan(bf16_at(out, 40 + 37)));
    }
}

TEST_CASE("loading, shifting and means are the same bits on every instruction set", "[kernels]") {
  const AttentionOps plain = kernels::attention_ops(Isa::kScalar);
  for (const Isa isa : vector_sets()) {
    const AttentionOps ops = kernels::attention_ops(isa);
    for (const int64_t dim : {32, 40, 72, 128, 200}) {
      const int64_t n = 13, stride = dim + 8;
      const auto source = normal((n + 2) * stride, 1, 3), shift = normal(dim, 2);
      std::vector<uint16_t> narrow(source.size());
      for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
        for (size_t i = 0; i < source.size(); ++i)
          narrow[i] = dtype == DType::kBF16 ? f32_to_bf16(source[i]) : f32_to_f16(source[i] * (i % 7 == 0 ? 1e-6F : 1.0F));
        const void* const data = dtype == DType::kF32 ? static_cast<const void*>(source.data()) : narrow.data();
        std::vector<float> one(at(n * dim)), two = one, mean(at(dim * 3)), other = mean;
        plain.load_rows({data, dtype, stride}, 2, n, dim, 0.37F, one.data());
        ops.load_rows({data, dtype, stride}, 2, n, dim, 0.37F, two.data());
        CHECK(one == two);
        plain.shift_rows(n, dim, shift.data(), one.data());
        ops.shift_rows(n, dim, shift.data(), two.data());
        CHECK(one == two);
        plain.mean_rows(one.data(), n, dim, mean.data(), 3);
        ops.mean_rows(two.data(), n, dim, other.data(), 3);
        CHECK(mean == other);
      }
    }
  }
}

TEST_CASE("merging in both layouts and all types: a rounding of the plain version, nothing past D", "[kernels]") {
  const AttentionOps plain = kernels::attention_ops(Isa::kScalar);
  for (const Isa isa : vector_sets()) {
    const AttentionOps ops = kernels::attention_ops(isa);
    for (const int64_t dim : {40, 128})
      for (const bool by_rows : {false, true}) {
        const int64_t rows = 5, width = width_of(dim), stride = dim + 3;
        const auto sparse = normal(rows * width, 1), linear = normal(rows * width, 2);
        const std::vector<float> ws{0.5F, 0, 1, 0.25F, 3}, wl{0.5F, 1, 0, 2, -1};
        const kernels::MergeInput input{sparse.data(), ws.data(), linear.data(), wl.data(), by_rows ? width : 0};
        for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
          std::vector<std::byte> one(at(rows * stride) * dtype_size(dtype), std::byte{0x5A}), two = one;
          plain.merge_rows(input, rows, dim, one.data(), dtype, stride);
          ops.merge_rows(input, rows, dim, two.data(), dtype, stride);
          std::vector<float> a(at(rows * stride)), b = a;
          convert_to_f32(dtype, one.data(), a.data(), a.size());
          convert_to_f32(dtype, two.data(), b.data(), b.size());
          double most = 0;
          for (size_t i = 0; i < a.size(); ++i) {
            const double step = dtype == DType::kF32 ? 0x1p-22 : dtype == DType::kBF16 ? 0x1p-7 : 0x1p-10;
            const double scale = static_cast<int64_t>(i) % stride < dim ? std::abs(static_cast<double>(a[i])) + 0.1 : 0;
            most = std::max(most, std::abs(static_cast<double>(a[i] - b[i])) - step * scale);
          }
          CHECK(most <= 0);
        }
      }
  }
}
