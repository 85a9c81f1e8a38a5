// SPDX-License-Identifier: Apache-2.0
// Kernels of the text encoder against fp64, at shapes that fill no tile.
#include <catch2/catch.hpp>
#include <cmath>

#include "gpu_case.h"

namespace sla2::gpu_test {
namespace {

constexpr double kSplit = 1.0 / (1 << 16);  // two bf16: half a last place is 2^-17 or less, and fp32 before that

struct Machine {
  emulator::EmulatedDevice gpu{80, kShared, kPlenty};
  device::Ops ops{gpu};
  device::TextOps text{gpu, ops};
};

/// Rows in two parts on the GPU, and their sums.
struct SplitOnGpu {
  OnGpu<uint16_t> high, low;
  SplitOnGpu(device::Gpu& gpu, size_t count) : high(gpu, count), low(gpu, count) {}
  SplitOnGpu(device::Gpu& gpu, const std::vector<float>& x) : high(gpu, to_bf16(x)), low(gpu, to_bf16(rest(x))) {}
  [[nodiscard]] cuda::SplitRows rows() const { return {high.data(), low.data()}; }
  [[nodiscard]] std::vector<double> values() const {
    auto sum = to_double(high.values());
    const auto tail = to_double(low.values());
    for (size_t i = 0; i < sum.size(); ++i) sum[i] += tail[i];
    return sum;
  }
  static std::vector<float> rest(std::vector<float> x) {
    for (float& value : x) value -= bf16_to_f32(f32_to_bf16(value));
    return x;
  }
};

double at(const std::vector<float>& x, size_t i) { return static_cast<double>(x[i]); }

template <typename T>
double worst_each(const std::vector<T>& got, const std::vector<double>& expected, double floor = 0) {
  double error = 0;
  for (size_t i = 0; i < expected.size(); ++i)
    error = std::max(error, std::abs(static_cast<double>(got[i]) - expected[i]) / std::max(std::abs(expected[i]), floor));
  return error;
}
template <typename T>
double worst(const std::vector<T>& got, const std::vector<double>& expected) {
  double top = 0;
  for (const double value : expected) top = std::max(top, std::abs(value));
  return worst_each(got, expected, top);
}

}  // namespace

TEST_CASE("T5's norm of rows: no mean, in two parts of bf16 and in fp32, also in place") {
  for (const auto& [rows, width] : {std::pair{1, 8}, {11, 72}, {19, 264}}) {
    Machine m;
    const auto size = static_cast<size_t>(rows) * static_cast<size_t>(width), across = static_cast<size_t>(width);
    auto x = normal(size, 1, 900, 400);
    for (size_t c = 0; c < across; ++c) x[c] *= 1e-6F;  // a row where eps counts
    const auto weight = normal(across, 2, 0.4F, 1);
    std::vector<double> expected(size);
    for (size_t r = 0; r < size / across; ++r) {
      double square = 0;
      for (size_t c = 0; c < across; ++c) square += at(x, r * across + c) * at(x, r * across + c) / width;
      for (size_t c = 0; c < across; ++c)
        expected[r * across + c] = at(x, r * across + c) / std::sqrt(square + 1e-6) * at(weight, c);
    }
    const OnGpu<float> gx(m.gpu, x), gweight(m.gpu, weight), y(m.gpu, size);
    const SplitOnGpu parts(m.gpu, size);
    m.text.norm(gx.data(), rows, width, gweight.data(), 1e-6F, parts.rows());
    CHECK(worst_each(parts.values(), expected) < kSplit);
    m.text.norm(gx.data(), rows, width, gweight.data(), 1e-6F, y.data());
    CHECK(worst_each(y.values(), expected) < 1e-6);
    m.text.norm(gx.data(), rows, width, gweight.data(), 1e-6F, gx.data());
    CHECK(gx.values() == y.values());
    CHECK(m.gpu.complaints().empty());
  }
}

TEST_CASE("the gate of T5's feed-forward: gelu_tanh(gate)·up, at sizes that fp16 has not") {
  Machine m;
  const size_t rows = 13, width = 72;
  const auto x = normal(rows * 2 * width, 1, 400);  // products of 1e5 and more
  std::vector<double> expected(rows * width);
  for (size_t r = 0; r < rows; ++r)
    for (size_t c = 0; c < width; ++c) {
      const double v = at(x, r * 2 * width + c), up = at(x, (2 * r + 1) * width + c);
      expected[r * width + c] = 0.5 * v * (1 + std::tanh(std::sqrt(2 / M_PI) * (v + 0.044715 * v * v * v))) * up;
    }
  const OnGpu<float> gx(m.gpu, x);
  const SplitOnGpu y(m.gpu, rows * width);
  m.text.gate(gx.data(), rows, width, y.rows());
  CHECK(worst_each(y.values(), expected, 1e-3) < kSplit);
}

TEST_CASE("a product of rows in two parts is that of fp32 rows") {
  Machine m;
  const size_t rows = 131, in = 72, out = 40;
  const auto x = normal(rows * in, 1, 20), before = normal(rows * out, 3);
  const auto w = to_bf16(normal(out * in, 2, 0.3F));
  const auto wide_w = to_double(w);
  std::vector<double> expected(rows * out);
  for (size_t r = 0; r < rows; ++r)
    for (size_t c = 0; c < out; ++c)
      for (size_t k = 0; k < in; ++k) expected[r * out + c] += at(x, r * in + k) * wide_w[c * in + k];
  const SplitOnGpu gx(m.gpu, x);
  const OnGpu<uint16_t> gw(m.gpu, w);
  const OnGpu<float> y(m.gpu, rows * out), sum(m.gpu, before);
  const device::LinearWeight weight{gw.data(), nullptr, nullptr, in, out};
  m.text.linear(weight, gx.rows(), rows, y.data(), false);
  CHECK(worst(y.values(), expected) < 5e-6);
  m.text.linear(weight, gx.rows(), rows, sum.data(), true);
  for (size_t i = 0; i < expected.size(); ++i) expected[i] += at(before, i);
  CHECK(worst(sum.values(), expected) < 5e-6);
}

TEST_CASE("attention with a relative bias, no 1/sqrt(d), any head width, beyond one tile") {
  struct Shape {
    size_t tokens, heads, head_dim;
    float spread;  // of q and k
  };
  for (const Shape s :
       {Shape{1, 2, 8, 1}, Shape{37, 3, 8, 2.5F}, Shape{70, 1, 72, 1}, Shape{33, 2, 5, 1}, Shape{150, 1, 16, 2}}) {
    Machine m;
    const size_t buckets = 32, width = s.heads * s.head_dim;
    const auto qkv = normal(s.tokens * 3 * width, 1, s.spread), table = normal(buckets * s.heads, 2, 2);
    std::vector<int32_t> bucket_of(2 * s.tokens - 1);
    for (size_t i = 0; i < bucket_of.size(); ++i) bucket_of[i] = static_cast<int32_t>(i * 7 % buckets);
    const auto part = [&](size_t token, size_t which, size_t head, size_t c) {
      return at(qkv, ((token * 3 + which) * s.heads + head) * s.head_dim + c);
    };
    std::vector<double> expected(s.tokens * width);
    double largest_score = 0;
    for (size_t head = 0; head < s.heads; ++head)
      for (size_t query = 0; query < s.tokens; ++query) {
        std::vector<double> score(s.tokens);
        double top = -INFINITY, sum = 0;
        for (size_t key = 0; key < s.tokens; ++key) {
          score[key] = at(table, static_cast<size_t>(bucket_of[key + s.tokens - 1 - query]) * s.heads + head);
          for (size_t c = 0; c < s.head_dim; ++c) score[key] += part(query, 0, head, c) * part(key, 1, head, c);
          top = std::max(top, score[key]);
        }
        largest_score = std::max(largest_score, top);
        for (double& value : score) sum += value = std::exp(value - top);
        for (size_t key = 0; key < s.tokens; ++key)
          for (size_t c = 0; c < s.head_dim; ++c)
            expected[(query * s.heads + head) * s.head_dim + c] += score[key] / sum * part(key, 2, head, c);
      }
    const OnGpu<float> gqkv(m.gpu, qkv), gtable(m.gpu, table);
    const OnGpu<int32_t> gbuckets(m.gpu, bucket_of);
    const SplitOnGpu out(m.gpu, s.tokens * width);
    m.text.attention({gqkv.data(), gtable.data(), gbuckets.data(), out.rows(), static_cast<int32_t>(s.tokens),
                      static_cast<int32_t>(s.heads), static_cast<int32_t>(s.head_dim)});
    INFO(s.tokens << " tokens, " << s.heads << " heads of " << s.head_dim << "; largest score " << largest_score);
    // A score of S has fp32 errors of about S·2^-23, which are relative ones of its weight.
    CHECK(worst(out.values(), expected) < kSplit + largest_score * 2e-7);
    CHECK(m.gpu.complaints().empty());
  }
}

TEST_CASE("a prompt whose scores do not fit a block is refused") {
  Machine m;
  CHECK(device::TextOps::most_tokens(m.gpu, 64) == 1376);
  CHECK(cuda::text_attention_bytes(1376, 64) <= kShared);
  CHECK(cuda::text_attention_bytes(512, 64) <= 48 * 1024);  // what every GPU gives unasked
  CHECK_THROWS_WITH(m.text.attention({nullptr, nullptr, nullptr, {}, 1377, 1, 64}),
                    Catch::Matchers::Contains("takes at most 1376"));
}

}  // namespace sla2::gpu_test
