// SPDX-License-Identifier: Apache-2.0
// Streams: a causal convolution frame by frame equals the whole-clip formula; plans equal what is allocated; tiles sum to one;
// thread counts do not change a bit.
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>

#include "random.h"
#include "vae/causal_conv.h"
#include "vae/network.h"
#include "vae/tiling.h"

using namespace sla2;
using namespace sla2::vae;

namespace {

/// Every tensor is noise of a size that keeps activations near one.
WeightReader noise_reader(bool bf16 = false) {
  return {[](std::string_view name, std::span<const int64_t> shape, std::span<float> target) {
            const bool gamma = name.ends_with("gamma"), bias = name.ends_with("bias");
            float fan_in = 1.0F;
            for (size_t axis = 1; axis < shape.size(); ++axis) fan_in *= static_cast<float>(shape[axis]);
            const auto seed = static_cast<uint32_t>(std::hash<std::string_view>()(name));
            const auto values = test::normal(static_cast<int64_t>(target.size()), seed, gamma ? 1.0F : 0.0F,
                                             gamma  ? 0.3F
                                             : bias ? 0.1F
                                                    : 1.0F / std::sqrt(fan_in));
            std::copy(values.begin(), values.end(), target.begin());
          },
          bf16, Format::of(bf16)};
}

config::VaeConfig small_config() {
  config::VaeConfig config;
  config.base_dim = config.decoder_base_dim = 8;
  config.res_blocks = 1;
  return config;
}

std::vector<float> run(const Network& network, const std::vector<float>& clip, int64_t frames, int64_t height, int64_t width) {
  Stream stream(network, height, width);
  std::vector<float> result;
  const int64_t plane = height * width, channels = network.specs().front().in;
  for (int64_t t = 0; t < frames; ++t)
    stream.push(clip.data() + t * channels * plane, plane, [&](const kernels::FrameShape& shape, const float* frame) {
      result.insert(result.end(), frame, frame + shape.elements());
    });
  return result;
}

}  // namespace

TEST_CASE("a causal convolution frame by frame equals the formula on the whole clip") {
  constexpr int64_t kIn = 5, kOut = 9, kFrames = 6, kHeight = 4, kWidth = 7, kPlane = kHeight * kWidth;
  const std::vector<float> weights = test::normal(kOut * kIn * 27, 1), bias = test::normal(kOut, 2);
  const std::vector<float> clip = test::normal(kIn * kFrames * kPlane, 3);  // [C,F,H,W]
  const WeightReader reader({[&](std::string_view name, std::span<const int64_t>, std::span<float> target) {
                               const auto& source = name.ends_with("bias") ? bias : weights;
                               std::copy(source.begin(), source.end(), target.begin());
                             },
                             false, Format{8}});
  const CausalWeights packed = read_causal(reader, "c", kIn, kOut);
  CausalConv conv(packed, kHeight, kWidth);
  const kernels::FrameShape in{kIn, kHeight, kWidth, 8};
  std::vector<float> input(static_cast<size_t>(in.elements()));
  Workspace workspace;
  workspace.scratch = AlignedBuffer<std::byte>(causal_cost(kIn, kOut, kHeight, kWidth, reader.format()).scratch_bytes);
  const kernels::FrameShape out{kOut, kHeight, kWidth, 8};
  std::vector<float> frame(static_cast<size_t>(out.elements())), planar(kOut * kPlane);
  for (int64_t t = 0; t < kFrames; ++t) {
    kernels::planar_to_frame(in, clip.data() + t * kPlane, kFrames * kPlane, input.data());
    conv.push(input.data(), nullptr, frame.data(), false, workspace);
    kernels::frame_to_planar_clamped(out, frame.data(), -1e9F, 1e9F, planar.data(), kPlane);
    for (int64_t o = 0; o < kOut; ++o)
      for (int64_t y = 0; y < kHeight; ++y)
        for (int64_t x = 0; x < kWidth; ++x) {
          double sum = bias[static_cast<size_t>(o)];
          for (int64_t c = 0; c < kIn; ++c)
            for (int64_t k = 0; k < 27; ++k) {
              const int64_t st = t + k / 9 - 2, sy = y + k / 3 % 3 - 1, sx = x + k % 3 - 1;
              if (st < 0 || sy < 0 || sx < 0 || sy >= kHeight || sx >= kWidth) continue;
              sum += static_cast<double>(weights[static_cast<size_t>((o * kIn + c) * 27 + k)]) *
                     clip[static_cast<size_t>((c * kFrames + st) * kPlane + sy * kWidth + sx)];
            }
          CHECK(planar[static_cast<size_t>(o * kPlane + y * kWidth + x)] == Approx(sum).margin(1e-4));
        }
  }
}

TEST_CASE("frames per latent frame: 1 then 4; latent frames per video frame: 1 then one in four") {
  const config::VaeConfig config = small_config();
  const WeightReader reader = noise_reader();
  const Network decoder(decoder_blocks(config), reader), encoder(encoder_blocks(config), reader);
  Stream decoding(decoder, 2, 3), encoding(encoder, 16, 24);
  const std::vector<float> latent = test::normal(16 * 6, 1), frame = test::normal(3 * 16 * 24, 2);
  for (int t = 0; t < 3; ++t) {
    int count = 0;
    decoding.push(latent.data(), 6, [&](const kernels::FrameShape& shape, const float*) {
      CHECK(shape.channels == 3);
      CHECK(shape.height == 16);
      CHECK(shape.width == 24);
      ++count;
    });
    CHECK(count == (t == 0 ? 1 : 4));
  }
  for (int t = 0; t < 9; ++t) {
    int count = 0;
    encoding.push(frame.data(), 16 * 24, [&](const kernels::FrameShape& shape, const float*) {
      CHECK(shape.channels == 32);
      CHECK(shape.height == 2);
      CHECK(shape.width == 3);
      ++count;
    });
    CHECK(count == (t % 4 == 0 ? 1 : 0));
  }
}

TEST_CASE("the number of threads does not change a bit") {
  const config::VaeConfig config = small_config();
  const bool bf16 = GENERATE(false, true);
  const Network decoder(decoder_blocks(config), noise_reader(bf16)), encoder(encoder_blocks(config), noise_reader(bf16));
  const std::vector<float> latent = test::normal(2 * 16 * 5 * 9, 3), video = test::normal(5 * 3 * 24 * 40, 4);
  set_thread_count(1);
  const std::vector<float> frames = run(decoder, latent, 2, 5, 9), moments = run(encoder, video, 5, 24, 40);
  for (const int threads : {2, 3}) {
    set_thread_count(threads);
    CHECK(run(decoder, latent, 2, 5, 9) == frames);
    CHECK(run(encoder, video, 5, 24, 40) == moments);
  }
  set_thread_count(0);
}

TEST_CASE("the plan is the sum of what every block packs and keeps") {
  const config::VaeConfig config;  // the public sizes
  const PlanSummary plan = plan_decode(config, 32, 32, {Precision::kF32});
  // The decoder has 73.3 M parameters; the upsampling phases hold 16/9 of their 3x3 weights.
  CHECK(static_cast<double>(plan.weight_bytes) == Approx(73.3e6 * 4).epsilon(0.03));
  CHECK(plan.activation_bytes > 500ULL << 20);
  CHECK(plan.weight_bytes + plan.activation_bytes < 1ULL << 30);
  const PlanSummary tiled = plan_decode(config, 60, 104, {Precision::kF32, 256, 64});
  CHECK(tiled.activation_bytes == plan.activation_bytes);
  CHECK(plan_decode(config, 60, 104, {Precision::kF32}).activation_bytes > 5 * tiled.activation_bytes);
  // What auto means is planned as it is run.
  const Precision meant = decode_precision(Precision::kAuto);
  CHECK(meant == (has_fast_bf16() ? Precision::kBf16 : Precision::kF32));
  CHECK(plan_decode(config, 32, 32, {}).weight_bytes == plan_decode(config, 32, 32, {meant}).weight_bytes);
  CHECK(decode_precision(Precision::kF32) == Precision::kF32);
}

TEST_CASE("tile weights sum to one everywhere, and bad tiles are refused") {
  const TileGrid grid(9, 20, 8, 64, 32);
  CHECK(grid.count() == 2 * 4);
  std::vector<double> sums(72 * 160, 0.0);
  for (int64_t i = 0; i < grid.count(); ++i) {
    const TileArea area = grid.area(i);
    const auto rows = grid.row_ramp(i), columns = grid.column_ramp(i);
    for (int64_t y = 0; y < area.height * 8; ++y)
      for (int64_t x = 0; x < area.width * 8; ++x)
        sums[static_cast<size_t>((area.y * 8 + y) * 160 + area.x * 8 + x)] +=
            static_cast<double>(rows[static_cast<size_t>(y)]) * columns[static_cast<size_t>(x)];
  }
  for (const double sum : sums) CHECK(sum == Approx(1.0).epsilon(1e-6));
  CHECK_THROWS_AS(TileGrid(9, 20, 8, 60, 32), Error);
  CHECK_THROWS_AS(TileGrid(9, 20, 8, 64, 40), Error);
  CHECK_THROWS_AS(TileGrid(9, 20, 8, -8, 0), Error);
}
