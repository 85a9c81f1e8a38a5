// SPDX-License-Identifier: Apache-2.0
// Kernels of the VAE against fp64, at frames that fill no patch and channels that fill no tile.
#include <catch2/catch.hpp>
#include <cmath>

#include "gpu_case.h"

namespace sla2::gpu_test {
namespace {

using device::ConvCall;
using device::ConvWeight;

constexpr double kFp32 = 2e-6, kBf16 = 1.0 / 256 + kFp32;

struct Shape {
  size_t height, width, in, out;
  int frames, side;
  bool doubled = false;
  int missing = 0;  ///< frames before the first
};

/// Causal convolution of channels-last frames, as its definition reads.
std::vector<double> convolve(const Shape& s, const std::vector<std::vector<double>>& frames, const std::vector<double>& weight,
                             const std::vector<float>& bias) {
  const size_t factor = s.doubled ? 2 : 1, high = s.height * factor, wide = s.width * factor, side = static_cast<size_t>(s.side);
  std::vector<double> y(high * wide * s.out);
  const auto source = [&](size_t at, size_t tap, size_t size) {  // −1: outside
    const auto place = static_cast<int64_t>(at + tap) - s.side / 2;
    return place < 0 || place >= static_cast<int64_t>(size) ? int64_t{-1} : place / static_cast<int64_t>(factor);
  };
  for (size_t at = 0; at < high * wide; ++at)
    for (size_t o = 0; o < s.out; ++o) {
      double sum = static_cast<double>(bias[o]);
      for (size_t f = static_cast<size_t>(s.missing); f < static_cast<size_t>(s.frames); ++f)
        for (size_t tap = 0; tap < side * side; ++tap) {
          const int64_t sy = source(at / wide, tap / side, high), sx = source(at % wide, tap % side, wide);
          if (sy < 0 || sx < 0) continue;
          const double* const pixel = frames[f].data() + (static_cast<size_t>(sy) * s.width + static_cast<size_t>(sx)) * s.in;
          const double* const w = weight.data() + ((f * side * side + tap) * s.out + o) * s.in;
          for (size_t i = 0; i < s.in; ++i) sum += pixel[i] * w[i];
        }
      y[at * s.out + o] = sum;
    }
  return y;
}

double worst(const std::vector<double>& got, const std::vector<double>& expected) {
  double error = 0, top = 0;
  REQUIRE(got.size() == expected.size());
  for (size_t i = 0; i < expected.size(); ++i) {
    if (std::isnan(got[i])) return INFINITY;
    error = std::max(error, std::abs(got[i] - expected[i]));
    top = std::max(top, std::abs(expected[i]));
  }
  return error / top;
}
std::vector<double> wide(const std::vector<float>& x) { return {x.begin(), x.end()}; }

}  // namespace

TEST_CASE("a causal convolution, with every kind of kernel and frame") {
  const Shape shapes[] = {
      {1, 1, 8, 8, 3, 3},                 // one pixel: all its neighbours are outside
      {9, 17, 40, 112, 3, 3},             // ragged in everything: two column tiles, a last chunk of 8 channels
      {9, 17, 40, 112, 3, 3, false, 1},   // the second frame of a clip
      {9, 17, 40, 112, 3, 3, false, 2},   // the first
      {5, 33, 96, 8, 3, 3},               // few channels out: the head
      {8, 16, 16, 96, 3, 3},              // whole patch, whole tile
      {7, 9, 72, 40, 1, 3, true},         // after an upsampling
      {1, 1, 8, 8, 1, 3, true},           //
      {4, 8, 32, 16, 1, 3, true},         // whole patch
      {3, 20, 136, 104, 3, 1},            // in time alone
      {3, 20, 136, 104, 3, 1, false, 2},  //
      {9, 15, 104, 24, 1, 1},             // pointwise
      {4, 5, 24, 16, 3, 1},               //
  };
  for (const Shape& s : shapes) {
    emulator::EmulatedDevice gpu(80, kShared, kPlenty);
    device::FrameOps ops(gpu);
    const size_t taps = static_cast<size_t>(s.side * s.side), stride = s.in + 8;
    std::vector<std::vector<double>> frames;
    std::vector<std::unique_ptr<OnGpu<uint16_t>>> on_gpu;
    ConvCall call;
    for (int f = 0; f < s.frames; ++f) {
      auto values = to_bf16(normal(s.height * s.width * stride, 10 + static_cast<unsigned>(f)));
      frames.emplace_back();
      for (size_t i = 0; i < values.size(); ++i) {
        if (i % stride < s.in)
          frames.back().push_back(static_cast<double>(bf16_to_f32(values[i])));
        else
          values[i] = f32_to_bf16(NAN);  // between pixels nobody may look
      }
      on_gpu.push_back(std::make_unique<OnGpu<uint16_t>>(gpu, values));
      if (f >= s.missing) call.frames[static_cast<size_t>(f)] = on_gpu.back()->data();
    }
    const auto weight = to_bf16(normal(static_cast<size_t>(s.frames) * taps * s.out * s.in, 2, 0.3F));
    const auto bias = normal(s.out, 3);
    const OnGpu<uint16_t> gweight(gpu, weight);
    const OnGpu<float> gbias(gpu, bias);
    const ConvWeight w{gweight.data(), gbias.data(), static_cast<int64_t>(s.in), static_cast<int64_t>(s.out), s.frames, s.side};
    call.height = static_cast<int64_t>(s.height), call.width = static_cast<int64_t>(s.width);
    call.stride_x = static_cast<int64_t>(stride), call.doubled = s.doubled;
    const std::vector<double> expected = convolve(s, frames, to_double(weight), bias);
    INFO(s.height << "x" << s.width << ", " << s.in << " to " << s.out << " channels, " << s.frames << " frames of which "
                  << s.missing << " missing, side " << s.side << (s.doubled ? ", doubled" : ""));
    const OnGpu<float> y(gpu, expected.size());
    call.y = y.data();
    ops.conv(w, call);
    CHECK(worst(wide(y.values()), expected) < kFp32);
    const OnGpu<uint16_t> small(gpu, expected.size());
    call.y = small.data(), call.element = DType::kBF16;
    ops.conv(w, call);
    CHECK(worst(to_double(small.values()), expected) < kBf16);
    const auto before = normal(expected.size(), 4);
    const OnGpu<float> sum(gpu, before);
    call.y = sum.data(), call.residual = sum.data(), call.element = DType::kF32;
    ops.conv(w, call);
    auto added = expected;
    for (size_t i = 0; i < added.size(); ++i) added[i] += static_cast<double>(before[i]);
    CHECK(worst(wide(sum.values()), added) < kFp32);
    CHECK(gpu.complaints().empty());
  }
}

TEST_CASE("channels that the kernel cannot read are refused") {
  emulator::EmulatedDevice gpu(80, kShared, kPlenty);
  device::FrameOps ops(gpu);
  for (const auto& [in, out] : {std::pair<int64_t, int64_t>{12, 8}, {8, 3}})
    CHECK_THROWS_WITH(ops.conv({nullptr, nullptr, in, out}, {}), Catch::Matchers::Contains("multiples of 8"));
}

TEST_CASE("a norm over channels with SiLU, and without, of fp32 and of bf16") {
  struct Case {
    size_t pixels, width;
    bool silu;
  };
  for (const Case c : {Case{1, 8, true}, {37, 96, true}, {9, 200, false}}) {
    emulator::EmulatedDevice gpu(80, kShared, kPlenty);
    device::FrameOps ops(gpu);
    auto narrow = to_bf16(normal(c.pixels * c.width, 1, 3));
    const size_t zero = c.pixels / 2;  // a pixel of zeros stays zeros
    if (c.pixels > 1) std::fill_n(narrow.begin() + static_cast<int64_t>(zero * c.width), c.width, uint16_t{0});
    const auto x = to_double(narrow);
    std::vector<float> x32(x.begin(), x.end());
    const auto gamma = normal(c.width, 2, 0.3F, 1);
    std::vector<double> expected(x.size());
    for (size_t p = 0; p < c.pixels; ++p) {
      double squares = 0;
      for (size_t i = 0; i < c.width; ++i) squares += x[p * c.width + i] * x[p * c.width + i];
      const double factor = std::sqrt(static_cast<double>(c.width)) / std::max(std::sqrt(squares), 1e-12);
      for (size_t i = 0; i < c.width; ++i) {
        const double v = x[p * c.width + i] * factor * static_cast<double>(gamma[i]);
        expected[p * c.width + i] = c.silu ? v / (1 + std::exp(-v)) : v;
      }
    }
    const OnGpu<float> gx(gpu, x32), ggamma(gpu, gamma);
    const OnGpu<uint16_t> gnarrow(gpu, narrow), y(gpu, x.size());
    const auto pixels = static_cast<int64_t>(c.pixels), width = static_cast<int64_t>(c.width);
    INFO(c.pixels << " pixels of " << c.width);
    ops.norm(gx.data(), DType::kF32, pixels, width, ggamma.data(), c.silu, y.data());
    CHECK(worst(to_double(y.values()), expected) < kBf16);
    ops.norm(gnarrow.data(), DType::kBF16, pixels, width, ggamma.data(), c.silu, y.data());
    CHECK(worst(to_double(y.values()), expected) < kBf16);
    ops.norm(gx.data(), DType::kF32, pixels, width, nullptr, false, y.data());
    CHECK(y.values() == narrow);
    CHECK(gpu.complaints().empty());
  }
}

TEST_CASE("softmax of rows, with zeros behind them") {
  struct Case {
    size_t rows, width, stride, filled;
  };
  for (const Case c : {Case{1, 1, 8, 8}, {19, 71, 72, 80}, {9, 130, 136, 136}}) {
    emulator::EmulatedDevice gpu(80, kShared, kPlenty);
    device::FrameOps ops(gpu);
    const float scale = 0.125F;
    auto x = normal(c.rows * c.stride, 1, 20);
    for (size_t i = 0; i < x.size(); ++i)
      if (i % c.stride >= c.width) x[i] = NAN;  // nobody may look there
    std::vector<double> expected(c.rows * c.filled);
    for (size_t r = 0; r < c.rows; ++r) {
      double sum = 0, top = -INFINITY;
      for (size_t i = 0; i < c.width; ++i) top = std::max(top, static_cast<double>(x[r * c.stride + i]));
      const auto weight = [&](size_t i) { return std::exp((static_cast<double>(x[r * c.stride + i]) - top) * 0.125); };
      for (size_t i = 0; i < c.width; ++i) sum += weight(i);
      for (size_t i = 0; i < c.width; ++i) expected[r * c.filled + i] = weight(i) / sum;
    }
    const OnGpu<float> gx(gpu, x);
    const OnGpu<uint16_t> y(gpu, expected.size());
    ops.softmax(gx.data(), static_cast<int64_t>(c.rows), static_cast<int64_t>(c.width), static_cast<int64_t>(c.stride), scale,
                y.data(), static_cast<int64_t>(c.filled));
    const auto got = to_double(y.values());
    CHECK(worst(got, expected) < kBf16);
    for (size_t i = 0; i < got.size(); ++i)
      if (i % c.filled >= c.width) CHECK(got[i] == 0);
    CHECK(gpu.complaints().empty());
  }
}

TEST_CASE("pictures leave as planes between -1 and 1") {
  emulator::EmulatedDevice gpu(80, kShared, kPlenty);
  device::FrameOps ops(gpu);
  const size_t pixels = 300, stride = 8;
  const auto x = normal(pixels * stride, 1);
  const OnGpu<float> gx(gpu, x), y(gpu, 3 * pixels);
  ops.planes(gx.data(), static_cast<int64_t>(pixels), static_cast<int64_t>(stride), 3, y.data());
  const auto got = y.values();
  for (size_t p = 0; p < pixels; ++p)
    for (size_t c = 0; c < 3; ++c) CHECK(got[c * pixels + p] == std::clamp(x[p * stride + c], -1.0F, 1.0F));
  CHECK(gpu.complaints().empty());
}

}  // namespace sla2::gpu_test
