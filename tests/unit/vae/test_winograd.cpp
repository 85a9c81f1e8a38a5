// SPDX-License-Identifier: Apache-2.0
// Winograd's convolution against the formula in fp64: exactly, on numbers it has no need to round, and within the error that
// rounding its points to bf16 explains. Ragged tiles, single pixels, channels that fill no block, streams that begin.
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>

#include "core/core.h"
#include "kernels/conv.h"
#include "kernels/winograd.h"
#include "random.h"

using namespace sla2;
using namespace sla2::kernels;

namespace {

struct Sizes {
  int64_t in, out, height, width;
};

/// Integers in [-most, most] times `unit`.
std::vector<float> integers(int64_t count, uint32_t seed, int most, float unit) {
  std::vector<float> values = test::normal(count, seed, 0.0F, static_cast<float>(most));
  for (float& value : values) value = unit * std::clamp(std::round(value), -static_cast<float>(most), static_cast<float>(most));
  return values;
}

std::vector<float> framed(const FrameShape& shape, const std::vector<float>& planar) {
  std::vector<float> frame(static_cast<size_t>(shape.elements()));
  planar_to_frame(shape, planar.data(), shape.pixels(), frame.data());
  return frame;
}

/// The frame a convolution sees: itself, or every pixel as four.
std::vector<float> seen(WinogradForm form, const FrameShape& shape, const std::vector<float>& frame) {
  if (form == WinogradForm::kSame) return frame;
  std::vector<float> large(4 * frame.size());
  for (int row = 0; row < 2; ++row)
    for (int column = 0; column < 2; ++column) scatter_phase(shape, frame.data(), row, column, large.data());
  return large;
}

struct Case {
  WinogradGeometry geometry;
  FrameShape input, output;
  std::vector<float> weights, bias, start;
  std::vector<std::vector<float>> frames;  // all of them bf16 numbers

  Case(const Sizes& size, WinogradForm form, int64_t taps, int64_t used, bool exact)
      : geometry{size.in, size.out, taps, form},
        input{size.in, size.height, size.width, kWinogradBlock},
        output(geometry.output(input)),
        weights(
            exact ? integers(geometry.weight_count(), 1, 1, 4.0F)
                  : test::normal(geometry.weight_count(), 1, 0.0F, 1.0F / std::sqrt(9.0F * static_cast<float>(size.in * taps)))),
        bias(exact ? integers(size.out, 2, 9, 1.0F) : std::vector<float>(static_cast<size_t>(size.out), 0.0F)),
        start(framed(output, integers(size.out * output.pixels(), 3, 9, 1.0F))) {
    for (int64_t i = 0; i < used; ++i) {
      const auto seed = static_cast<uint32_t>(10 + i);
      std::vector<float> planar =
          exact ? integers(size.in * input.pixels(), seed, 8, 1.0F) : test::normal(size.in * input.pixels(), seed);
      for (float& value : planar) value = bf16_to_f32(f32_to_bf16(value));
      frames.push_back(framed(input, planar));
    }
  }

  [[nodiscard]] std::vector<float> ours(bool accumulate) const {
    std::vector<std::vector<bf16_t>> narrow;
    std::vector<const bf16_t*> sources;
    for (const std::vector<float>& frame : frames) {
      narrow.emplace_back(frame.size());
      convert_to_bf16(frame.data(), narrow.back().data(), frame.size());
    }
    for (const std::vector<bf16_t>& frame : narrow) sources.push_back(frame.data());
    const PackedWinograd packed(geometry, weights.data(), bias.data());
    AlignedBuffer<std::byte> scratch(PackedWinograd::scratch_bytes(geometry, input.height, input.width));
    std::fill_n(scratch.data(), scratch.size(), std::byte{0xff});  // NaN: nothing may be read before it is written
    std::vector<float> result = start;
    packed.run(sources, input.height, input.width, result.data(), accumulate, scratch.data());
    return result;
  }

  [[nodiscard]] std::vector<float> oracle(bool accumulate) const {
    const auto conv = ConvGeometry::same(geometry.in_channels, geometry.out_channels, 3);
    FrameShape large = output;
    large.channels = geometry.in_channels;
    std::vector<float> tap(static_cast<size_t>(conv.weight_count())), result = start;
    for (size_t i = 0; i < frames.size(); ++i) {
      const size_t t = static_cast<size_t>(geometry.frames) - frames.size() + i;
      for (size_t pair = 0; pair < tap.size() / 9; ++pair)
        std::copy_n(weights.data() + (pair * static_cast<size_t>(geometry.frames) + t) * 9, 9, tap.data() + pair * 9);
      ref::conv(conv, large, tap.data(), i == 0 ? bias.data() : nullptr, seen(geometry.form, input, frames[i]).data(),
                result.data(), accumulate || i > 0);
    }
    return result;
  }
};

}  // namespace

TEST_CASE("Winograd's convolution is exact where nothing is rounded") {
  const Sizes size = GENERATE(Sizes{16, 16, 1, 1}, Sizes{3, 5, 5, 7}, Sizes{24, 56, 6, 10}, Sizes{17, 100, 1, 33},
                              Sizes{40, 48, 2, 1}, Sizes{304, 16, 3, 4}, Sizes{16, 32, 17, 18});
  const auto form = GENERATE(WinogradForm::kSame, WinogradForm::kDoubled);
  const auto [taps, used] = GENERATE(std::pair{1, 1}, std::pair{3, 1}, std::pair{3, 2}, std::pair{3, 3});
  const bool accumulate = GENERATE(false, true);
  const Case one(size, form, taps, used, true);
  std::vector<float> ours = one.ours(accumulate);
  CHECK(ours == one.oracle(accumulate));
}

TEST_CASE("Winograd's error is that of its rounded points") {
  // With d the relative rms of rounding to bf16, a direct product errs by sqrt(2) d where sources and weights are rounded, one of
  // points by sqrt(25/9) of that: points are sums of four pixels (norm 2), nine of which with weights of norms 1, 3/4, 3/4
  // meet in an output.
  const auto form = GENERATE(WinogradForm::kSame, WinogradForm::kDoubled);
  const Case one({96, 64, 14, 22}, form, 3, 3, false);
  const std::vector<float> ours = one.ours(false), truth = one.oracle(false);
  double error = 0.0, size = 0.0;
  for (size_t i = 0; i < ours.size(); ++i) {
    error += std::pow(static_cast<double>(ours[i]) - truth[i], 2);
    size += std::pow(static_cast<double>(truth[i]), 2);
  }
  const double rounding = 0x1p-8 / std::sqrt(3.0);  // the most: uniform up to half of bf16's unit 2^-7, at mantissa 1
  CHECK(std::sqrt(error / size) < std::sqrt(2.0) * 5.0 / 3.0 * rounding);
  CHECK(std::sqrt(error / size) > 0.2 * rounding);  // else it is not what is claimed
}

TEST_CASE("the three steps of AVX-512 are those of the matrices") {
  if (!has_fast_bf16()) {
    WARN("skipped: this machine (or SLA2_ISA) has no avx512_bf16");
    return;
  }
  const auto form = GENERATE(WinogradForm::kSame, WinogradForm::kDoubled);
  const TileRun run = form == WinogradForm::kSame ? TileRun{9, 11, 4, 1, 5} : TileRun{5, 6, 4, 1, 5};
  constexpr int64_t kDepth = 3, kGroups = 2, kGroup = kDepth * kWinogradRows * kWinogradBlock, kPlane = kGroups * kGroup;
  constexpr int64_t kPoints = 16, kFirst = 6;
  const auto narrow = [](const std::vector<float>& values) {
    std::vector<bf16_t> result(values.size());
    convert_to_bf16(values.data(), result.data(), values.size());
    return result;
  };
  const std::vector<bf16_t> source = narrow(test::normal(run.height * run.width * kWinogradBlock, 1));
  std::vector<bf16_t> v = narrow(test::normal(kPoints * kPlane, 2)), v_ref = v;
  winograd_avx512_bf16().sources(form, run, source.data(), v.data(), kPlane, kGroup, kFirst);
  winograd_ref().sources(form, run, source.data(), v_ref.data(), kPlane, kGroup, kFirst);
  CHECK(v == v_ref);

  const int64_t blocks = GENERATE(1, 2, 3);
  const bool accumulate = GENERATE(false, true);
  const std::vector<bf16_t> w = narrow(test::normal(kDepth * 16 * blocks * 16, 3));
  std::vector<float> m = test::normal(kGroups * kWinogradRows * kWinogradColumns, 4), m_ref = m;
  winograd_avx512_bf16().products(kGroups, kDepth, blocks, v.data(), kGroup, w.data(), m.data(), accumulate);
  winograd_ref().products(kGroups, kDepth, blocks, v.data(), kGroup, w.data(), m_ref.data(), accumulate);
  for (size_t i = 0; i < m.size(); ++i) CHECK(m[i] == Approx(m_ref[i]).margin(1e-4));

  const std::vector<float> points = test::normal(kPoints * kWinogradRows * kWinogradColumns, 5), bias = test::normal(16, 6);
  std::vector<float> dst = test::normal(4 * run.height * run.width * kWinogradBlock, 7), dst_ref = dst;
  const int64_t plane = kWinogradRows * kWinogradColumns;
  winograd_avx512_bf16().results(form, run, points.data(), plane, bias.data(), dst.data(), accumulate);
  winograd_ref().results(form, run, points.data(), plane, bias.data(), dst_ref.data(), accumulate);
  for (size_t i = 0; i < dst.size(); ++i) CHECK(dst[i] == Approx(dst_ref[i]).margin(1e-5));
}

TEST_CASE("Winograd's result does not depend on the threads") {
  const Case one({32, 64, 40, 30}, GENERATE(WinogradForm::kSame, WinogradForm::kDoubled), 3, 3, false);
  set_thread_count(1);
  const std::vector<float> alone = one.ours(true);
  for (const int threads : {2, 3}) {
    set_thread_count(threads);
    CHECK(one.ours(true) == alone);
  }
  set_thread_count(0);
}
