// SPDX-License-Identifier: Apache-2.0
// Frame kernels against their formulas: convolution (all geometries the VAE uses, ragged channels, both block sizes), norm+SiLU.
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>

#include "core/core.h"
#include "kernels/conv.h"
#include "kernels/rms_silu.h"
#include "random.h"

using namespace sla2;
using namespace sla2::kernels;

namespace {

double worst(const std::vector<float>& a, const std::vector<float>& b) {
  double difference = 0.0, size = 0.0;
  for (size_t i = 0; i < a.size(); ++i) {
    difference = std::max(difference, std::abs(static_cast<double>(a[i]) - b[i]));
    size = std::max(size, std::abs(static_cast<double>(b[i])));
  }
  return difference / size;
}

std::vector<float> random_frame(const FrameShape& shape, uint32_t seed) {
  const std::vector<float> planar = test::normal(shape.channels * shape.pixels(), seed);
  std::vector<float> frame(static_cast<size_t>(shape.elements()));
  planar_to_frame(shape, planar.data(), shape.pixels(), frame.data());
  return frame;
}

}  // namespace

TEST_CASE("convolution equals the formula for every geometry of the VAE") {
  const auto [in, out] = GENERATE(std::pair<int64_t, int64_t>{8, 8}, std::pair<int64_t, int64_t>{3, 5},
                                  std::pair<int64_t, int64_t>{16, 24}, std::pair<int64_t, int64_t>{24, 3});
  const int64_t block = GENERATE(8, 16);
  const int kind = GENERATE(0, 1, 2, 3);
  const bool accumulate = GENERATE(false, true);
  const ConvGeometry geometries[] = {ConvGeometry::same(in, out, 3),
                                     ConvGeometry::same(in, out, 1),
                                     {in, out, 3, 3, 2, 0, 0, 1, 1},
                                     {in, out, 2, 2, 1, 1, 0, 0, 1}};
  const ConvGeometry& geometry = geometries[kind];
  const FrameShape input{in, 6, 10, block}, output = geometry.output(input);
  const std::vector<float> weights = test::normal(geometry.weight_count(), 1), bias = test::normal(out, 2);
  const std::vector<float> src = random_frame(input, 3);
  std::vector<float> ours = random_frame(output, 4), expected = ours;
  AlignedBuffer<std::byte> scratch(PackedConv::scratch_bytes(geometry, input.height, input.width, true, block));
  Conv(PackedConv(geometry, weights.data(), bias.data(), block), input.height, input.width)
      .run(src.data(), ours.data(), accumulate, scratch.span());
  ref::conv(geometry, input, weights.data(), bias.data(), src.data(), expected.data(), accumulate);
  CHECK(worst(ours, expected) < 1e-6);
}

TEST_CASE("bf16 convolution equals the formula on rounded numbers") {
  if (!has_fast_bf16() || preferred_block() != 16) {
    WARN("skipped: this machine (or SLA2_ISA) has no avx512_bf16");
    return;
  }
  const auto [in, out] =
      GENERATE(std::pair<int64_t, int64_t>{16, 24}, std::pair<int64_t, int64_t>{3, 5}, std::pair<int64_t, int64_t>{32, 3});
  const int kind = GENERATE(0, 1, 2, 3);
  const bool accumulate = GENERATE(false, true);
  const ConvGeometry geometries[] = {ConvGeometry::same(in, out, 3),
                                     ConvGeometry::same(in, out, 1),
                                     {in, out, 3, 3, 2, 0, 0, 1, 1},
                                     {in, out, 2, 2, 1, 1, 0, 0, 1}};
  const ConvGeometry& geometry = geometries[kind];
  const FrameShape input{in, 6, 10, 16}, output = geometry.output(input);
  std::vector<float> weights = test::normal(geometry.weight_count(), 1), src = random_frame(input, 3);
  const std::vector<float> bias = test::normal(out, 2);
  std::vector<float> ours = random_frame(output, 4), expected = ours;
  std::vector<bf16_t> narrow(src.size());
  narrow_frame(input, src.data(), narrow.data());
  AlignedBuffer<std::byte> scratch(PackedConv::scratch_bytes(geometry, input.height, input.width, true, 16, DType::kBF16));
  Conv(PackedConv(geometry, weights.data(), bias.data(), 16, DType::kBF16), input.height, input.width)
      .run(narrow.data(), ours.data(), accumulate, scratch.span());
  for (std::vector<float>* values : {&weights, &src})
    for (float& value : *values) value = bf16_to_f32(f32_to_bf16(value));
  ref::conv(geometry, input, weights.data(), bias.data(), src.data(), expected.data(), accumulate);
  CHECK(worst(ours, expected) < 1e-6);
}

TEST_CASE("packed bytes are known before packing") {
  const auto geometry = ConvGeometry::same(24, 40, 3);
  const std::vector<float> weights(static_cast<size_t>(geometry.weight_count())), bias(40);
  const int64_t block = preferred_block();
  const DType products = has_fast_bf16() ? GENERATE(DType::kF32, DType::kBF16) : DType::kF32;
  CHECK(PackedConv(geometry, weights.data(), bias.data(), block, products).bytes() ==
        PackedConv::bytes_for(geometry, true, block, products));
}

TEST_CASE("norm and SiLU follow the formula in fp64, scalar and AVX2") {
  const int64_t channels = GENERATE(1, 3, 8, 12, 96);
  const int64_t block = GENERATE(8, 16);
  const bool silu = GENERATE(false, true);
  const FrameShape shape{channels, 7, 13, block};
  std::vector<float> src = random_frame(shape, 5);
  for (int64_t b = 0; b < shape.blocks(); ++b)
    std::fill_n(src.data() + b * shape.pixels() * block, block, 0.0F);  // a black pixel
  std::vector<float> gamma = test::normal(shape.blocks() * block, 6, 1.0F, 0.3F);
  std::fill(gamma.begin() + channels, gamma.end(), 0.0F);
  std::vector<float> scalar(src.size()), vector(src.size()), expected(src.size());
  for (int64_t p = 0; p < shape.pixels(); ++p) {
    double squares = 0.0;
    const auto at = [&](int64_t c) { return static_cast<size_t>(((c / block) * shape.pixels() + p) * block + c % block); };
    for (int64_t c = 0; c < channels; ++c) squares += static_cast<double>(src[at(c)]) * src[at(c)];
    for (int64_t c = 0; c < channels; ++c) {
      const double y = src[at(c)] / std::max(std::sqrt(squares), 1e-12) * std::sqrt(static_cast<double>(channels)) *
                       gamma[static_cast<size_t>(c)];
      expected[at(c)] = static_cast<float>(silu ? y / (1.0 + std::exp(-y)) : y);
    }
  }
  ref::rms_silu_pixels(shape, src.data(), gamma.data(), silu, scalar.data(), 0, shape.pixels());
  CHECK(worst(scalar, expected) < 1e-7);
  if (active_isa() < Isa::kAvx2) return;
  avx2::rms_silu_pixels(shape, src.data(), gamma.data(), silu, vector.data(), 0, shape.pixels());
  CHECK(worst(vector, expected) < 1e-6);
}

TEST_CASE("norm and SiLU to bf16 follow the formula, scalar and AVX-512") {
  const int64_t channels = GENERATE(1, 12, 16, 96);
  const bool silu = GENERATE(false, true);
  const FrameShape shape{channels, 7, 13, 16};
  const std::vector<float> src = random_frame(shape, 5);
  std::vector<float> gamma = test::normal(shape.blocks() * 16, 6, 1.0F, 0.3F), exact(src.size());
  std::fill(gamma.begin() + channels, gamma.end(), 0.0F);
  ref::rms_silu_pixels(shape, src.data(), gamma.data(), silu, exact.data(), 0, shape.pixels());
  std::vector<bf16_t> scalar(src.size()), vector(src.size());
  ref::rms_silu_pixels(shape, src.data(), gamma.data(), silu, scalar.data(), 0, shape.pixels());
  rms_silu(shape, src.data(), gamma.data(), silu, vector.data());
  for (size_t i = 0; i < exact.size(); ++i) {
    CHECK(scalar[i] == f32_to_bf16(exact[i]));
    // half a unit of bf16 is 2^-9 to 2^-8; fp32's own error may tip a tie
    CHECK(std::abs(bf16_to_f32(vector[i]) - exact[i]) <= 0x1.01p-8F * std::abs(exact[i]));
  }
}

TEST_CASE("SiLU to bf16 survives extreme and broken values") {
  const FrameShape shape{16, 1, 3, 16};
  std::vector<float> gamma(16, 1.0F), src(48, 1.0F);
  gamma[0] = 1e6F;
  gamma[1] = -1e6F;
  gamma[2] = 3e38F;
  gamma[3] = -3e38F;
  src[16] = std::nanf("");
  std::vector<bf16_t> dst(48);
  rms_silu(shape, src.data(), gamma.data(), true, dst.data());
  CHECK(bf16_to_f32(dst[0]) == Approx(1e6F).epsilon(0.004));
  CHECK(bf16_to_f32(dst[1]) == Approx(0.0F).margin(1e-20));
  CHECK(bf16_to_f32(dst[2]) > 2.9e38F);
  CHECK(bf16_to_f32(dst[3]) == Approx(0.0F).margin(1.0));
  for (size_t lane = 0; lane < 16; ++lane) CHECK(std::isnan(bf16_to_f32(dst[16 + lane])));
  CHECK(std::isfinite(bf16_to_f32(dst[32])));
}

TEST_CASE("SiLU survives extreme and broken values") {
  const FrameShape shape{8, 1, 3, 8};
  const std::vector<float> gamma{1e6F, -1e6F, 1.0F, 0.0F, 1.0F, 1.0F, 1.0F, 1.0F};
  std::vector<float> src(24, 1.0F), dst(24);
  src[8] = std::nanf("");
  rms_silu(shape, src.data(), gamma.data(), true, dst.data());
  CHECK(dst[0] == Approx(1e6F));
  CHECK(dst[1] == Approx(0.0F).margin(1e-20));
  CHECK(std::isnan(dst[8]));
  CHECK(std::isfinite(dst[16]));
}

TEST_CASE("frames go in and out of the blocked layout") {
  const FrameShape shape{11, 3, 5, 8};
  const std::vector<float> planar = test::normal(shape.channels * shape.pixels(), 7);
  std::vector<float> frame(static_cast<size_t>(shape.elements()), 9.0F), back(planar.size()), rows(planar.size());
  planar_to_frame(shape, planar.data(), shape.pixels(), frame.data());
  frame_to_planar_clamped(shape, frame.data(), -1.0F, 1.0F, back.data(), shape.pixels());
  for (size_t i = 0; i < planar.size(); ++i) CHECK(back[i] == std::clamp(planar[i], -1.0F, 1.0F));
  frame_to_rows(shape, frame.data(), rows.data());
  CHECK(rows[1 * 11 + 9] == planar[9 * 15 + 1]);
  const std::vector<float> bias(11, 0.5F), zeros(planar.size(), 0.0F);
  add_rows_to_frame(shape, zeros.data(), bias.data(), frame.data());
  frame_to_rows(shape, frame.data(), rows.data());
  CHECK(rows[1 * 11 + 9] == planar[9 * 15 + 1] + 0.5F);
  CHECK(frame[static_cast<size_t>((1 * 15 + 0) * 8 + 7)] == 0.0F);  // channel 15 does not exist
}
