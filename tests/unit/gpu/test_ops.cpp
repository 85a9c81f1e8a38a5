// SPDX-License-Identifier: Apache-2.0
// Kernels of the runner against fp64, at shapes that fill no tile.
#include <catch2/catch.hpp>
#include <cmath>

#include "gpu_case.h"

namespace sla2::gpu_test {
namespace {

using device::LinearResult;
using device::ProductRows;

double gelu_tanh(double v) { return 0.5 * v * (1 + std::tanh(std::sqrt(2 / M_PI) * (v + 0.044715 * v * v * v))); }
double silu(double v) { return v / (1 + std::exp(-v)); }

/// Largest error relative to the largest magnitude that is expected.
template <typename T>
double worst(const std::vector<T>& got, const std::vector<double>& expected) {
  double error = 0, top = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    error = std::max(error, std::abs(static_cast<double>(got[i]) - expected[i]));
    top = std::max(top, std::abs(expected[i]));
    if (std::isnan(static_cast<double>(got[i])) != std::isnan(expected[i])) return INFINITY;
  }
  return error / top;
}
std::vector<double> product(const std::vector<double>& x, const std::vector<double>& w, size_t rows, size_t in, size_t out) {
  std::vector<double> y(rows * out);
  for (size_t r = 0; r < rows; ++r)
    for (size_t c = 0; c < out; ++c) {
      double sum = 0;
      for (size_t k = 0; k < in; ++k) sum += x[r * in + k] * w[c * in + k];
      y[r * out + c] = sum;
    }
  return y;
}

constexpr double kFp32 = 2e-6, kBf16 = 1.0 / 256 + kFp32;  // half a last place of bf16 is 2^-9 of the number

struct Machine {
  emulator::EmulatedDevice gpu{80, kShared, kPlenty};
  device::Ops ops{gpu};
};

}  // namespace

TEST_CASE("a product of bf16 rows and a weight, at ragged shapes, with every finish") {
  struct Shape {
    size_t rows, in, out;
  };
  for (const Shape s : {Shape{1, 8, 8}, Shape{130, 40, 72}, Shape{257, 96, 136}, Shape{77, 200, 264}}) {
    Machine m;
    const auto x = to_bf16(normal(s.rows * s.in, 1)), w = to_bf16(normal(s.out * s.in, 2, 0.3F));
    const auto bias = normal(s.out, 3), gate = normal(s.out, 4), before = normal(s.rows * s.out, 5);
    const OnGpu<uint16_t> gx(m.gpu, x), gw(m.gpu, w);
    const OnGpu<float> gbias(m.gpu, bias), ggate(m.gpu, gate);
    const device::LinearWeight weight{gw.data(), nullptr, gbias.data(), static_cast<int64_t>(s.in), static_cast<int64_t>(s.out)};
    std::vector<double> v = product(to_double(x), to_double(w), s.rows, s.in, s.out);
    for (size_t i = 0; i < v.size(); ++i) v[i] += static_cast<double>(bias[i % s.out]);
    const ProductRows rows{gx.data(), nullptr, nullptr};
    INFO("rows " << s.rows << ", in " << s.in << ", out " << s.out);
    for (const auto finish : {cuda::kGemmStore, cuda::kGemmGeluTanh, cuda::kGemmSilu}) {
      auto expected = v;
      for (double& value : expected)
        value = finish == cuda::kGemmGeluTanh ? gelu_tanh(value) : finish == cuda::kGemmSilu ? silu(value) : value;
      const OnGpu<float> y(m.gpu, s.rows * s.out);
      m.ops.linear(weight, rows, static_cast<int64_t>(s.rows), {y.data(), DType::kF32, 0, finish, nullptr});
      CHECK(worst(y.values(), expected) < kFp32);
      const OnGpu<uint16_t> narrow(m.gpu, s.rows * s.out);
      m.ops.linear(weight, rows, static_cast<int64_t>(s.rows), {narrow.data(), DType::kBF16, 0, finish, nullptr});
      CHECK(worst(to_double(narrow.values()), expected) < kBf16);
    }
    for (const float* gates : {static_cast<const float*>(ggate.data()), static_cast<const float*>(nullptr)}) {
      auto expected = v;
      for (size_t i = 0; i < v.size(); ++i)
        expected[i] = static_cast<double>(before[i]) + v[i] * (gates == nullptr ? 1.0 : static_cast<double>(gate[i % s.out]));
      const OnGpu<float> y(m.gpu, before);
      m.ops.linear(weight, rows, static_cast<int64_t>(s.rows), {y.data(), DType::kF32, 0, cuda::kGemmAddGated, gates});
      CHECK(worst(y.values(), expected) < kFp32);
    }
    CHECK(m.gpu.complaints().empty());
  }
}

TEST_CASE("a product reads and writes rows of a larger matrix") {
  Machine m;
  const size_t rows = 20, in = 32, out = 16, stride = 48;
  const auto x = to_bf16(normal(rows * stride, 1)), w = to_bf16(normal(out * in, 2));
  std::vector<double> dense;
  for (size_t r = 0; r < rows; ++r)
    for (size_t c = 0; c < in; ++c) dense.push_back(static_cast<double>(bf16_to_f32(x[r * stride + c])));
  const auto expected = product(dense, to_double(w), rows, in, out);
  const OnGpu<uint16_t> gx(m.gpu, x), gw(m.gpu, w);
  const OnGpu<float> y(m.gpu, std::vector<float>(rows * stride, 7));
  m.ops.linear({gw.data(), nullptr, nullptr, 32, 16}, {gx.data(), nullptr, nullptr}, rows,
               {y.data(), DType::kF32, stride, cuda::kGemmStore, nullptr}, stride);
  const auto got = y.values();
  for (size_t r = 0; r < rows; ++r)
    for (size_t c = 0; c < stride; ++c) {
      INFO("row " << r << ", column " << c);
      if (c < out)
        CHECK(static_cast<double>(got[r * stride + c]) == Approx(expected[r * out + c]).margin(1e-4));
      else
        CHECK(got[r * stride + c] == 7);
    }
}

TEST_CASE("rows are quantised and multiplied in int8: scale times exact sums") {
  struct Shape {
    size_t rows, in, out;
  };
  for (const Shape s : {Shape{3, 16, 8}, Shape{131, 80, 136}}) {
    Machine m;
    const auto x = to_bf16(normal(s.rows * s.in, 1, 2));
    std::vector<int8_t> w(s.out * s.in);
    std::mt19937 random(3);
    for (int8_t& value : w) value = static_cast<int8_t>(static_cast<int>(random() % 255) - 127);
    const auto column_scale = normal(s.out, 5, 0.001F, 0.01F), bias = normal(s.out, 6);
    const OnGpu<uint16_t> gx(m.gpu, x);
    const OnGpu<int8_t> gw(m.gpu, w), steps(m.gpu, s.rows * s.in);
    const OnGpu<float> gscale(m.gpu, column_scale), gbias(m.gpu, bias), scale(m.gpu, s.rows), y(m.gpu, s.rows * s.out);
    const ProductRows rows{nullptr, steps.data(), scale.data()};
    m.ops.quantise(gx.data(), static_cast<int64_t>(s.rows), static_cast<int64_t>(s.in), rows);
    m.ops.linear({gw.data(), gscale.data(), gbias.data(), static_cast<int64_t>(s.in), static_cast<int64_t>(s.out)}, rows,
                 static_cast<int64_t>(s.rows), {y.data(), DType::kF32, 0, cuda::kGemmStore, nullptr});
    const auto q = steps.values();
    const auto scales = scale.values(), got = y.values();
    for (size_t r = 0; r < s.rows; ++r) {
      double top = 0;
      for (size_t k = 0; k < s.in; ++k) top = std::max(top, std::abs(static_cast<double>(bf16_to_f32(x[r * s.in + k]))));
      CHECK(static_cast<double>(scales[r]) == Approx(top / 127));
      for (size_t k = 0; k < s.in; ++k)
        CHECK(std::abs(q[r * s.in + k] * top / 127 - static_cast<double>(bf16_to_f32(x[r * s.in + k]))) < 0.5001 * top / 127);
      for (size_t c = 0; c < s.out; ++c) {
        int64_t sum = 0;
        for (size_t k = 0; k < s.in; ++k) sum += int64_t{q[r * s.in + k]} * w[c * s.in + k];
        const double expected = static_cast<double>(sum) * static_cast<double>(scales[r]) * static_cast<double>(column_scale[c]) +
                                static_cast<double>(bias[c]);
        CHECK(static_cast<double>(got[r * s.out + c]) == Approx(expected).epsilon(1e-5).margin(1e-5));
      }
    }
  }
}

TEST_CASE("LayerNorm with modulation, in bf16 and in bytes, and the look for NaN") {
  const size_t rows = 11, width = 72;
  Machine m;
  auto x = normal(rows * width, 1, 3, 5);
  const auto scale = normal(width, 2, 0.5F, 1), shift = normal(width, 3);
  std::vector<double> expected(x.size());
  for (size_t r = 0; r < rows; ++r) {
    double mean = 0, square = 0;
    for (size_t c = 0; c < width; ++c) mean += static_cast<double>(x[r * width + c]) / width;
    for (size_t c = 0; c < width; ++c) square += std::pow(static_cast<double>(x[r * width + c]) - mean, 2) / width;
    for (size_t c = 0; c < width; ++c)
      expected[r * width + c] =
          (static_cast<double>(x[r * width + c]) - mean) / std::sqrt(square + 1e-6) * static_cast<double>(scale[c]) +
          static_cast<double>(shift[c]);
  }
  const OnGpu<float> gscale(m.gpu, scale), gshift(m.gpu, shift), row_scale(m.gpu, rows);
  const OnGpu<uint16_t> y(m.gpu, x.size());
  const OnGpu<int8_t> steps(m.gpu, x.size());
  const OnGpu<int32_t> bad(m.gpu, std::vector<int32_t>{0});
  const auto run = [&](const ProductRows& to) {
    const OnGpu<float> gx(m.gpu, x);
    m.ops.layer_norm(gx.data(), rows, width, gscale.data(), gshift.data(), 1e-6F, to, bad.data());
  };
  run({y.data(), nullptr, nullptr});
  CHECK(worst(to_double(y.values()), expected) < kBf16);
  run({nullptr, steps.data(), row_scale.data()});
  const auto q = steps.values();
  const auto scales = row_scale.values();
  std::vector<double> widened(x.size());
  for (size_t i = 0; i < x.size(); ++i) widened[i] = q[i] * static_cast<double>(scales[i / width]);
  CHECK(worst(widened, expected) < 0.5 / 127 + 1e-5);
  CHECK(bad.values()[0] == 0);
  {
    const OnGpu<float> gx(m.gpu, x);
    m.ops.convert(gx.data(), rows, width, {y.data(), nullptr, nullptr});
    CHECK(y.values() == to_bf16(x));
  }
  x[5 * width + 3] = std::nanf("");
  run({y.data(), nullptr, nullptr});
  CHECK(bad.values()[0] == 1);
}

TEST_CASE("RMSNorm over whole rows and rotation of two parts, in token order") {
  const size_t rows = 13, heads = 3, head_dim = 16, width = heads * head_dim, stride = 3 * width, first = 5;
  const size_t pairs_t = 4, pairs_h = 2, pairs_w = 2, frames = 3, height = 2, across = 4;
  Machine m;
  const auto x = to_bf16(normal(rows * stride, 1));
  const auto wq = normal(width, 2, 0.3F, 1), wk = normal(width, 3, 0.3F, 1);
  const auto angle_t = normal(frames * pairs_t, 4), angle_h = normal(height * pairs_h, 5), angle_w = normal(across * pairs_w, 6);
  const auto of = [](const std::vector<float>& angles, double (*f)(double)) {
    std::vector<float> y(angles.size());
    for (size_t i = 0; i < y.size(); ++i) y[i] = static_cast<float>(f(static_cast<double>(angles[i])));
    return y;
  };
  std::vector<int32_t> order(frames * height * across);
  for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int32_t>((i * 7 + 3) % order.size());
  const OnGpu<float> ct(m.gpu, of(angle_t, std::cos)), st(m.gpu, of(angle_t, std::sin)), ch(m.gpu, of(angle_h, std::cos)),
      sh(m.gpu, of(angle_h, std::sin)), cw(m.gpu, of(angle_w, std::cos)), sw(m.gpu, of(angle_w, std::sin)), gq(m.gpu, wq),
      gk(m.gpu, wk);
  const OnGpu<int32_t> gorder(m.gpu, order);
  const OnGpu<uint16_t> gx(m.gpu, x);
  const device::RopeOnGpu rope{{ct.data(), st.data(), pairs_t, frames},
                               {ch.data(), sh.data(), pairs_h, height},
                               {cw.data(), sw.data(), pairs_w, across},
                               gorder.data(),
                               head_dim};
  m.ops.rms_norm({gx.data(), stride, rows, width, gq.data(), gk.data(), width, first, 1e-6F}, rope);
  const auto got = to_double(gx.values()), before = to_double(x);
  std::vector<double> expected = before;
  for (size_t r = 0; r < rows; ++r) {
    const auto token = static_cast<size_t>(order[first + r]);
    const size_t pt = token / (height * across), ph = token / across % height, pw = token % across;
    for (size_t part = 0; part < 2; ++part) {
      const size_t at = r * stride + part * width;
      double square = 0;
      for (size_t c = 0; c < width; ++c) square += before[at + c] * before[at + c] / static_cast<double>(width);
      for (size_t c = 0; c < width; c += 2) {
        const auto& w = part == 0 ? wq : wk;
        const double a = before[at + c] / std::sqrt(square + 1e-6) * static_cast<double>(w[c]),
                     b = before[at + c + 1] / std::sqrt(square + 1e-6) * static_cast<double>(w[c + 1]);
        const size_t pair = c % head_dim / 2;
        const float angle = pair < pairs_t             ? angle_t[pt * pairs_t + pair]
                            : pair < pairs_t + pairs_h ? angle_h[ph * pairs_h + pair - pairs_t]
                                                       : angle_w[pw * pairs_w + pair - pairs_t - pairs_h];
        const auto turn = static_cast<double>(angle);
        expected[at + c] = a * std::cos(turn) - b * std::sin(turn);
        expected[at + c + 1] = a * std::sin(turn) + b * std::cos(turn);
      }
    }
  }
  CHECK(worst(got, expected) < kBf16);
  for (size_t r = 0; r < rows; ++r)  // the third part is not touched
    for (size_t c = 2 * width; c < stride; ++c) CHECK(got[r * stride + c] == before[r * stride + c]);
}

TEST_CASE("modulation vectors: sums, with 1 added to scales") {
  Machine m;
  const size_t dim = 8, vectors = 6, layers = 3;
  const auto base = normal(layers * vectors * dim, 1), offset = normal(vectors * dim, 2);
  const OnGpu<float> gbase(m.gpu, base), goffset(m.gpu, offset), out(m.gpu, base.size());
  m.ops.modulate(gbase.data(), goffset.data(), out.data(), static_cast<int64_t>(base.size()), vectors * dim, dim, vectors,
                 0b010010);
  const auto got = out.values();
  for (size_t i = 0; i < base.size(); ++i) {
    const size_t vector = i / dim % vectors;
    const float sum = base[i] + offset[i % (vectors * dim)];
    CHECK(got[i] == (vector == 1 || vector == 4 ? 1 + sum : sum));
  }
}

TEST_CASE("what a kernel cannot read is refused with its remedy") {
  Machine m;
  CHECK_THROWS_WITH(m.ops.linear({nullptr, nullptr, nullptr, 12, 8}, {}, 1, {}), Catch::Matchers::Contains("input width is 12"));
}

}  // namespace sla2::gpu_test
