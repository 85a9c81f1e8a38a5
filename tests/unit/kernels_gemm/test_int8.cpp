// SPDX-License-Identifier: Apache-2.0
// 8-bit Linears against fp64 sums of the formula, written here from scratch:
//   range = max(x, 0) - min(x, 0); q = round(levels·x / range) + round(-levels·min / range), in [0, levels]; weights symmetric.
// Rows of bytes: every version of the kernels bit for bit against the scalar one.
#include <catch2/catch.hpp>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "kernels/byte_rows.h"
#include "kernels/packed_linear.h"

using namespace sla2;
using kernels::Compute;
using kernels::Epilogue;
using kernels::PackedLinear;

namespace {

using Matrix = std::vector<float>;
constexpr float kNan = std::numeric_limits<float>::quiet_NaN(), kInfinity = std::numeric_limits<float>::infinity();

Matrix normals(int64_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  Matrix values(static_cast<size_t>(count));
  for (float& value : values) value = normal(random);
  return values;
}

struct Case {
  int64_t rows, in, out;
  Matrix x, weight, bias;
  Case(int64_t m, int64_t k, int64_t n)
      : rows(m), in(k), out(n), x(normals(m * k, 1)), weight(normals(n * k, 2)), bias(normals(n, 3)) {}
};

PackedLinear make(const Case& c) {
  PackedLinear linear(c.in, c.out, DType::kI8, Compute::kInt8);
  std::memcpy(linear.weight().data(), c.weight.data(), c.weight.size() * sizeof(float));
  std::copy(c.bias.begin(), c.bias.end(), linear.bias().begin());
  linear.pack();
  return linear;
}

Matrix run(const PackedLinear& linear, const Case& c, const Epilogue& epilogue = {}, Matrix y = {}) {
  y.resize(static_cast<size_t>(c.rows * c.out));
  AlignedBuffer<std::byte> workspace(linear.workspace_bytes(c.rows));
  linear.forward(c.x.data(), c.rows, c.in, y.data(), c.out, epilogue, workspace.data());
  return y;
}

/// A row as the numbers its bytes stand for. fp32 where the formula says round: ties must fall on the same side.
std::vector<double> held_activations(const float* x, int64_t count, double* step) {
  const auto levels = static_cast<float>(kernels::activation_levels());
  float low = 0, high = 0;
  for (int64_t i = 0; i < count; ++i) {
    low = std::min(low, x[i]);
    high = std::max(high, x[i]);
  }
  const float span = high - low, inverse = levels / span;
  const double scale = static_cast<double>(span) / static_cast<double>(levels);
  std::vector<double> held(static_cast<size_t>(count), 0.0);
  *step = scale;
  if (span < 1e-30F) return held;
  const double zero = std::nearbyint(-low * inverse);
  for (int64_t i = 0; i < count; ++i) {
    const double q = std::clamp(std::nearbyint(x[i] * inverse) + zero, 0.0, static_cast<double>(levels));
    held[static_cast<size_t>(i)] = (q - zero) * scale;
  }
  return held;
}

std::vector<double> held_weights(const float* w, int64_t count) {
  float most = 0;
  for (int64_t i = 0; i < count; ++i) most = std::max(most, std::abs(w[i]));
  std::vector<double> held(static_cast<size_t>(count), 0.0);
  if (most < 1e-30F) return held;
  for (int64_t i = 0; i < count; ++i)
    held[static_cast<size_t>(i)] = std::nearbyint(w[i] * (127.0F / most)) * (static_cast<double>(most) / 127.0);
  return held;
}

/// v = x·Wᵀ + bias of the numbers held, in fp64; NaN where a row or a channel has something else.
std::vector<double> oracle(const Case& c) {
  std::vector<std::vector<double>> channels;
  for (int64_t j = 0; j < c.out; ++j) channels.push_back(held_weights(c.weight.data() + j * c.in, c.in));
  std::vector<double> v;
  for (int64_t i = 0; i < c.rows; ++i) {
    double step = 0;
    const auto row = held_activations(c.x.data() + i * c.in, c.in, &step);
    for (int64_t j = 0; j < c.out; ++j) {
      double sum = 0;
      for (int64_t l = 0; l < c.in; ++l)
        sum += row[static_cast<size_t>(l)] * channels[static_cast<size_t>(j)][static_cast<size_t>(l)];
      v.push_back(sum + c.bias[static_cast<size_t>(j)]);
    }
  }
  return v;
}

/// Sums are exact; what is left is six roundings of fp32.
void check_close(float ours, double exact, double magnitude) {
  const double bound = 1e-6 * (std::abs(exact) + magnitude);
  if (!(std::abs(ours - exact) <= bound)) FAIL(ours << " instead of " << exact << ", allowed " << bound);
}

double gelu_tanh(double v) { return 0.5 * v * (1 + std::tanh(std::sqrt(2 / M_PI) * (v + 0.044715 * v * v * v))); }

}  // namespace

TEST_CASE("an 8-bit Linear equals the formula for ragged sizes and every epilogue") {
  for (const auto& [m, k, n] : {std::array<int64_t, 3>{1, 1, 1}, {5, 3, 7}, {33, 70, 300}, {523, 257, 19}, {17, 1000, 513}}) {
    Case c(m, k, n);
    for (int64_t l = 0; l < k; l += 3) c.x[static_cast<size_t>(l)] = std::abs(c.x[static_cast<size_t>(l)]);
    const PackedLinear linear = make(c);
    const auto exact = oracle(c);
    const Matrix before = normals(m * n, 4), gate = normals(n, 5);
    for (const auto kind :
         {Epilogue::Kind::kStore, Epilogue::Kind::kGeluTanh, Epilogue::Kind::kSilu, Epilogue::Kind::kAddGated}) {
      const Matrix y = run(linear, c, {kind, gate.data()}, before);
      for (size_t i = 0; i < y.size(); ++i) {
        const double v = exact[i], g = gate[i % static_cast<size_t>(n)];
        const double wanted = kind == Epilogue::Kind::kStore      ? v
                              : kind == Epilogue::Kind::kGeluTanh ? gelu_tanh(v)
                              : kind == Epilogue::Kind::kSilu     ? v / (1 + std::exp(-v))
                                                                  : before[i] + g * v;
        check_close(y[i], wanted, (1 + std::abs(g)) * (1 + std::abs(v)));
      }
    }
  }
}

TEST_CASE("an 8-bit Linear errs by no more than half a step of each factor") {
  const Case c(40, 128, 64);
  const Matrix y = run(make(c), c);
  for (int64_t i = 0; i < c.rows; ++i) {
    double step = 0;
    static_cast<void>(held_activations(c.x.data() + i * c.in, c.in, &step));
    for (int64_t j = 0; j < c.out; ++j) {
      double v = c.bias[static_cast<size_t>(j)], bound = 0;
      const float* w = c.weight.data() + j * c.in;
      float most = 0;
      for (int64_t l = 0; l < c.in; ++l) most = std::max(most, std::abs(w[l]));
      const double half_x = step / 2, half_w = static_cast<double>(most) / 254;
      for (int64_t l = 0; l < c.in; ++l) {
        const double a = c.x[static_cast<size_t>(i * c.in + l)];
        v += a * w[l];
        // the end of the range may be cut by half a step more: its zero was rounded too
        bound += 2 * half_x * (std::abs(w[l]) + half_w) + half_w * std::abs(a);
      }
      CHECK(std::abs(y[static_cast<size_t>(i * c.out + j)] - v) <= bound);
    }
  }
}

TEST_CASE("sums of the largest bytes are exact, also over the longest rows") {
  for (const int64_t in : {int64_t{64}, int64_t{8960}}) {
    Case c(4, in, 80);
    std::fill(c.x.begin(), c.x.end(), 1.0F);  // every byte is `levels`, every weight 127: what 16-bit sums would cut
    std::fill(c.weight.begin(), c.weight.end(), 1.0F);
    std::fill(c.bias.begin(), c.bias.end(), 0.0F);
    for (const float value : run(make(c), c)) CHECK(value == Approx(static_cast<double>(in)).epsilon(1e-6));
    std::fill(c.weight.begin(), c.weight.end(), -1.0F);
    for (const float value : run(make(c), c)) CHECK(value == Approx(-static_cast<double>(in)).epsilon(1e-6));
  }
}

TEST_CASE("zero rows give the bias, outliers stay in their row, NaN and infinity reach their row and nothing else") {
  Case c(9, 100, 40);
  const auto row = [&](int64_t i) { return c.x.data() + i * c.in; };
  const auto [plain, zeros] = std::pair{run(make(c), c), int64_t{2}};
  std::fill_n(row(zeros), c.in, 0.0F);
  std::fill_n(row(3), c.in, 1e-38F);
  row(4)[7] = 1e4F;
  row(5)[99] = kNan;
  row(6)[0] = kInfinity;
  row(7)[50] = -kInfinity;
  const Matrix y = run(make(c), c);
  const auto exact = oracle(c);
  for (int64_t i = 0; i < c.rows; ++i) {
    for (int64_t j = 0; j < c.out; ++j) {
      const auto at = static_cast<size_t>(i * c.out + j);
      if (i == zeros || i == 3)
        CHECK(y[at] == c.bias[static_cast<size_t>(j)]);
      else if (i >= 5 && i <= 7)
        CHECK(std::isnan(y[at]));
      else
        check_close(y[at], exact[at], i == 4 ? 1e4 : 10);
      if (i < 2 || i == 8) CHECK(y[at] == plain[at]);
    }
  }
  c.weight[static_cast<size_t>(11 * c.in + 1)] = kNan;
  const Matrix z = run(make(c), c);
  for (size_t at = 0; at < z.size(); ++at)
    if (at % static_cast<size_t>(c.out) == 11)
      CHECK(std::isnan(z[at]));
    else
      CHECK((z[at] == y[at] || std::isnan(y[at])));
}

TEST_CASE("8-bit Linears do not depend on the number of threads, nor a row on its neighbours") {
  const Case c(530, 300, 600);
  const PackedLinear linear = make(c);
  Matrix first;
  for (const int threads : {1, 2, 3, 7}) {
    set_thread_count(threads);
    const Matrix y = run(linear, c);
    if (first.empty()) first = y;
    CHECK(std::memcmp(first.data(), y.data(), y.size() * sizeof(float)) == 0);
  }
  set_thread_count(0);
  Case part = c;
  part.rows = 37;
  const Matrix y = run(linear, part);
  CHECK(std::memcmp(first.data(), y.data(), y.size() * sizeof(float)) == 0);
}

TEST_CASE("rows of bytes: every version gives the bits of the scalar one") {
  if (active_isa() < Isa::kAvx2) return;
  const kernels::ByteRowsTable &ref = kernels::byte_rows_ref(), &fast = kernels::byte_rows_avx2();
  for (const size_t count : {size_t{1}, size_t{7}, size_t{8}, size_t{31}, size_t{32}, size_t{100}, size_t{1537}}) {
    Matrix x = normals(static_cast<int64_t>(count), static_cast<unsigned>(count));
    for (const float special : {0.0F, -3e38F, kNan, kInfinity, -kInfinity}) {
      const auto a = ref.range(x.data(), count), b = fast.range(x.data(), count);
      CHECK(a.finite == b.finite);
      if (a.finite) CHECK((a.low == b.low && a.high == b.high));
      x[count / 2] = special;
    }
    x[count / 2] = 0.5F;
    for (const auto& [zero, least, most] : {std::array<int32_t, 3>{100, 0, 255}, {0, -127, 127}, {3, 0, 127}}) {
      std::vector<uint8_t> p(count), q(count);
      ref.encode(x.data(), count, 50.0F, zero, least, most, p.data());
      fast.encode(x.data(), count, 50.0F, zero, least, most, q.data());
      CHECK(p == q);
    }
    std::vector<int32_t> sums(count), column_sums(count);
    for (size_t i = 0; i < count; ++i) {
      sums[i] = static_cast<int32_t>(x[i] * 1e8F);
      column_sums[i] = static_cast<int32_t>(x[count - 1 - i] * 1e5F);
    }
    Matrix p(count), q(count);
    ref.restore(sums.data(), count, 0.013F, 77, x.data(), column_sums.data(), p.data());
    std::memcpy(q.data(), sums.data(), count * sizeof(float));  // in place
    fast.restore(reinterpret_cast<const int32_t*>(q.data()), count, 0.013F, 77, x.data(), column_sums.data(), q.data());
    CHECK(std::memcmp(p.data(), q.data(), count * sizeof(float)) == 0);
  }
}
