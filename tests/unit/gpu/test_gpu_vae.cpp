// SPDX-License-Identifier: Apache-2.0
// The VAE's decoder on the emulated GPU against the CPU's in fp32, itself held to diffusers (tests/python/test_vae.py).
#include <catch2/catch.hpp>

#include "random_dit.h"
#include "random_vae.h"

namespace sla2::gpu_test {
namespace {

using vae::DecodeOptions;
using vae::Decoder;
using vae::FrameChunk;
using vae::Precision;

latent::Latent random_latent(int64_t frames, int64_t height, int64_t width, unsigned seed = 21) {
  latent::Latent x{RandomVae::kLatent, frames, height, width, {}};
  x.values = normal(static_cast<size_t>(x.size()), seed);
  return x;
}

struct Decoded {
  std::vector<float> values;
  std::vector<int64_t> counts;
};
Decoded decode(Decoder& decoder, const latent::Latent& x, int64_t tile = 0, int64_t overlap = 0) {
  Decoded clip;
  DecodeOptions options;
  options.tile = tile, options.tile_overlap = overlap;
  const CancelToken cancel;
  decoder.decode(x, options, cancel, [&](const FrameChunk& chunk) {
    int64_t before = 0;
    for (const int64_t count : clip.counts) before += count;
    CHECK(chunk.first == before);
    clip.counts.push_back(chunk.count);
    clip.values.insert(clip.values.end(), chunk.values, chunk.values + chunk.count * 3 * chunk.height * chunk.width);
  });
  return clip;
}
std::unique_ptr<Decoder> on_cpu(const RandomVae& vae, Precision precision = Precision::kF32) {
  return Decoder::load(vae.checkpoint(), precision);
}
std::unique_ptr<Decoder> on_gpu(device::Gpu& gpu, const RandomVae& vae) {
  return Decoder::load_on(gpu, vae.checkpoint(), Precision::kAuto, {});
}

/// What torch's own bf16 is from fp32 on VAEs of this make is 1.9e-2; see test_bf16_products_err_no_more_than_torchs.
constexpr double kTorchsBf16 = 1.85e-2;

}  // namespace

TEST_CASE("frames from a GPU are the CPU's fp32 frames, nearer than torch's own bf16") {
  const RandomVae vae;
  for (const int64_t frames : {1, 2, 3}) {
    emulator::EmulatedDevice gpu(frames == 2 ? 90 : 80, kShared, kPlenty);
    const latent::Latent x = random_latent(frames, 1, 3);  // 3 pixels: the attention's rows are filled up to 8
    const Decoded expected = decode(*on_cpu(vae), x), narrow = decode(*on_cpu(vae, Precision::kBf16), x);
    const auto decoder = on_gpu(gpu, vae);
    const Decoded got = decode(*decoder, x);
    const double ours = distance(got.values, expected.values);
    UNSCOPED_INFO(frames << " latent frames: " << ours << " from fp32; the CPU's bf16 "
                         << distance(narrow.values, expected.values));
    CHECK(got.counts == expected.counts);
    CHECK(got.values.size() == static_cast<size_t>((1 + 4 * (frames - 1)) * 3 * 8 * 24));
    CHECK(ours < kTorchsBf16);
    if (has_fast_bf16()) CHECK(ours < distance(narrow.values, expected.values));  // else that has fp32 products
    CHECK(gpu.complaints().empty());
    if (frames != 2) continue;
    CHECK(decode(*decoder, x).values == got.values);  // the same bits, whatever the memory held
    emulator::EmulatedDevice other(120, kShared, kPlenty, emulator::Copies::kSoon);
    CHECK(decode(*on_gpu(other, vae), x).values == got.values);
    CHECK(other.complaints().empty());
  }
}

TEST_CASE("tiles from a GPU are the CPU's tiles") {
  const RandomVae vae;
  emulator::EmulatedDevice gpu(80, kShared, kPlenty);
  const latent::Latent x = random_latent(2, 2, 3);
  const Decoded expected = decode(*on_cpu(vae), x, 16, 8);
  const Decoded got = decode(*on_gpu(gpu, vae), x, 16, 8);
  CHECK(got.counts == expected.counts);
  CHECK(distance(got.values, expected.values) < kTorchsBf16);
  CHECK(gpu.complaints().empty());
  CHECK(gpu.used_bytes() == 0);
}

TEST_CASE("a decode allocates what its plan says, which is known from sizes alone") {
  const RandomVae vae;
  const config::VaeConfig config = config::read_vae_config(vae.checkpoint());
  for (const int64_t tile : {0, 16}) {
    emulator::EmulatedDevice gpu(80, kShared, kPlenty);
    const latent::Latent x = random_latent(1, 2, 3);
    DecodeOptions options;
    options.tile = tile, options.tile_overlap = 8;
    const vae::PlanSummary plan = vae::plan_decode_on(config, x, options);
    {
      const auto decoder = on_gpu(gpu, vae);
      CHECK(gpu.used_bytes() == plan.weight_bytes);
      (void)decode(*decoder, x, tile, 8);
    }
    const uint64_t planned = plan.weight_bytes + plan.activation_bytes;
    INFO(plan.text);
    CHECK(gpu.peak_bytes() <= planned);
    CHECK(gpu.peak_bytes() * 5 >= planned * 4);
    CHECK(gpu.used_bytes() == 0);
  }
}

TEST_CASE("memory that is not there is said before the first frame") {
  const RandomVae vae;
  const latent::Latent x = random_latent(1, 1, 1);
  for (const int failing : {0, 1}) {  // weights, a stream's arena
    emulator::EmulatedDevice gpu(80, kShared, kPlenty);
    gpu.fail_allocation(failing);
    int frames = 0;
    try {
      Decoder::load_on(gpu, vae.checkpoint(), Precision::kAuto, {})->decode(x, {}, {}, [&](const FrameChunk&) { ++frames; });
      FAIL("nothing failed");
    } catch (const Error& error) {
      CHECK(error.status() == SLA2_E_MEMORY);
    }
    CHECK(frames == 0);
    CHECK(gpu.used_bytes() == 0);
  }
}

TEST_CASE("a decode on a GPU is cancelled between frames and leaves nothing behind") {
  const RandomVae vae;
  emulator::EmulatedDevice gpu(80, kShared, kPlenty);
  const auto decoder = on_gpu(gpu, vae);
  const uint64_t weights = gpu.used_bytes();
  const latent::Latent x = random_latent(3, 1, 1);
  CancelToken cancel;
  int64_t frames = 0;
  CHECK_THROWS_WITH(decoder->decode(x, {}, cancel,
                                    [&](const FrameChunk& chunk) {
                                      frames += chunk.count;
                                      cancel.request();
                                    }),
                    Catch::Matchers::Contains("cancelled"));
  CHECK(frames == 1);
  CHECK(gpu.used_bytes() == weights);
  CHECK(decode(*decoder, x).values == decode(*on_gpu(gpu, vae), x).values);
  CHECK(gpu.complaints().empty());
}

TEST_CASE("fp32 is left to the CPU") {
  const RandomVae vae;
  emulator::EmulatedDevice gpu(80, kShared, kPlenty);
  CHECK_THROWS_WITH(Decoder::load_on(gpu, vae.checkpoint(), Precision::kF32, {}),
                    Catch::Matchers::Contains("vae_precision is fp32"));
}

TEST_CASE("plans of a decode at real sizes", "[.plan]") {
  config::VaeConfig config;
  for (const auto& [width, height] : {std::pair<int64_t, int64_t>{104, 60}, {160, 90}})
    for (const int64_t tile : {0, 512, 256}) {
      const latent::Latent x{16, 21, height, width, {}};
      DecodeOptions options;
      options.tile = tile;
      const vae::PlanSummary plan = vae::plan_decode_on(config, x, options);
      WARN(fmt::format("tile {}: {:.0f} MiB\n{}", tile, static_cast<double>(plan.weight_bytes + plan.activation_bytes) / 1048576,
                       plan.text));
    }
}

}  // namespace sla2::gpu_test
