// SPDX-License-Identifier: Apache-2.0
// The diffusion transformer on the emulated GPU beside the CPU's: fp32, which tests/python/test_dit.py holds to diffusers.
#include <catch2/catch.hpp>

#include "random_dit.h"

namespace sla2::gpu_test {
namespace {

using dit::LayerAttention;

struct Results {
  std::vector<float> velocity, other;
  std::vector<std::vector<float>> blocks;
  dit::ForwardReport report;
};

Results run(dit::Dit& model, const Pass& pass, std::span<const LayerAttention> policy, bool pair = false) {
  Results r;
  latent::Latent velocity, other;
  const auto first = model.prepare_prompt(pass.text), second = model.prepare_prompt(pass.other_text);
  model.set_grid(latent::grid_of(pass.x));
  const CancelToken cancel;
  if (pair) {
    dit::ForwardReport other_report;
    model.forward_pair(pass.x, pass.timestep, *first, *second, policy, cancel, velocity, other, &r.report, &other_report);
    CHECK(other_report.first_bad_block == -1);
  } else {
    model.forward(pass.x, pass.timestep, *second, policy, cancel, other, nullptr);
    model.forward(pass.x, pass.timestep, *first, policy, cancel, velocity, &r.report);
  }
  r.velocity = velocity.values, r.other = other.values;
  return r;
}

Results on_cpu(const RandomDit& model, const Pass& pass, dit::Options options, std::span<const LayerAttention> policy) {
  Results r;
  std::vector<std::vector<float>> blocks;
  options.on_block = [&](int64_t block, std::span<const float> x) {
    if (block < 0) blocks.clear();
    blocks.emplace_back(x.begin(), x.end());
  };
  r = run(*dit::Dit::load(model.checkpoint(), options, {}, {}), pass, policy);
  r.blocks = blocks;
  return r;
}
Results on_gpu(device::Gpu& gpu, const RandomDit& model, const Pass& pass, dit::Options options,
               std::span<const LayerAttention> policy) {
  Results r;
  std::vector<std::vector<float>> blocks;
  options.on_block = [&](int64_t block, std::span<const float> x) {
    if (block < 0) blocks.clear();
    blocks.emplace_back(x.begin(), x.end());
  };
  r = run(*dit::Dit::load_on(gpu, model.checkpoint(), options, {}, {}), pass, policy);
  r.blocks = blocks;
  return r;
}

constexpr double kBf16 = 0.012, kInt8 = 0.04;

}  // namespace

TEST_CASE("a random model on the GPU gives the CPU's fp32 numbers within bf16, block by block") {
  const DitSizes sizes;
  const RandomDit model(sizes);
  const Pass pass(sizes, 3, 10, 14);  // 105 tokens
  dit::Options exact, narrow;
  exact.precision = dit::Precision::kF32;
  narrow.token_chunk = 48;  // 48, 48, 9 rows
  for (const bool tiles : {false, true}) {
    exact.token_order = narrow.token_order = tiles ? attention::Order::kTiles : attention::Order::kRaster;
    emulator::EmulatedDevice gpu(80, kShared, kPlenty);
    const Results expected = on_cpu(model, pass, exact, {}), got = on_gpu(gpu, model, pass, narrow, {});
    REQUIRE(got.blocks.size() == expected.blocks.size());
    for (size_t i = 0; i < got.blocks.size(); ++i) {
      INFO("block " << static_cast<int>(i) - 1);
      CHECK(distance(got.blocks[i], expected.blocks[i]) < kBf16);
    }
    CHECK(distance(got.velocity, expected.velocity) < kBf16);
    CHECK(distance(got.other, expected.other) < kBf16);
    CHECK(got.report.first_bad_block == -1);
    CHECK(got.report.layers.size() == 3);
    CHECK(gpu.complaints().empty());
    CHECK(gpu.used_bytes() == 0);
  }
}

TEST_CASE("sparse attention on the GPU keeps the CPU's blocks and comes as near") {
  const DitSizes sizes{1, 64, 128, 2, 24, 32};
  const RandomDit model(sizes);
  const Pass pass(sizes, 2, 18, 20);  // 180 tokens: three key blocks, the last ragged
  dit::Options exact;
  exact.precision = dit::Precision::kF32;
  for (const double sparsity : {0.34, 0.67}) {
    LayerAttention sparse;
    sparse.mode = attention::Mode::kSla2, sparse.sparsity = sparsity;
    const std::vector<LayerAttention> policy{sparse, sparse};
    emulator::EmulatedDevice gpu(80, kShared, kPlenty);
    const Results expected = on_cpu(model, pass, exact, policy), got = on_gpu(gpu, model, pass, {}, policy);
    CHECK(distance(got.velocity, expected.velocity) < kBf16);
    CHECK(got.report.layers[0].attention.mode_used == attention::Mode::kSla2);
    CHECK(got.report.layers[0].attention.achieved_sparsity ==
          Approx(expected.report.layers[0].attention.achieved_sparsity).margin(1e-9));
  }
}

TEST_CASE("Linears in 8 bits on the GPU stay within what a byte costs") {
  const DitSizes sizes;
  const RandomDit model(sizes);
  const Pass pass(sizes, 1, 8, 12);
  dit::Options exact, bytes;
  exact.precision = dit::Precision::kF32;
  bytes.linear_bits = 8, bytes.token_chunk = 16;
  emulator::EmulatedDevice gpu(80, kShared, kPlenty);
  const Results expected = on_cpu(model, pass, exact, {}), got = on_gpu(gpu, model, pass, bytes, {});
  CHECK(distance(got.velocity, expected.velocity) < kInt8);
  constexpr int64_t kPasses = 2, kLayers = 3, kLinears = 6, kChunks = 2;
  CHECK(gpu.launches("sla2_gemm_int8") == kPasses * kLayers * kLinears * kChunks);
}

TEST_CASE("streamed weights give the resident ones' bits, with either order of copies and any number of places") {
  const DitSizes sizes{1, 32, 64, 5, 24, 32};
  const RandomDit model(sizes);
  const Pass pass(sizes, 1, 4, 8);
  emulator::EmulatedDevice whole(80, kShared, kPlenty);
  const auto resident = dit::Dit::load_on(whole, model.checkpoint(), {}, {}, {});
  const Results expected = run(*resident, pass, {});
  for (const emulator::Copies copies : {emulator::Copies::kLate, emulator::Copies::kSoon})
    for (const int slots : {2, 3}) {
      INFO("slots " << slots);
      dit::Options options;
      options.weight_slots = slots;
      emulator::EmulatedDevice gpu(80, kShared, kPlenty, copies);
      const auto streamed = dit::Dit::load_on(gpu, model.checkpoint(), options, {}, {});
      CHECK(streamed->weight_bytes() < resident->weight_bytes());
      const Results apart = run(*streamed, pass, {}), together = run(*streamed, pass, {}, true);
      CHECK(apart.velocity == expected.velocity);
      CHECK(apart.other == expected.other);
      CHECK(together.velocity == expected.velocity);
      CHECK(together.other == expected.other);
    }
}

TEST_CASE("two prompts in one pass read each block's weights once") {
  const DitSizes sizes{1, 32, 64, 4, 24, 32};
  const RandomDit model(sizes);
  const Pass pass(sizes, 1, 4, 4);
  dit::Options options;
  options.weight_slots = 2;
  emulator::EmulatedDevice gpu(80, kShared, kPlenty);
  const auto streamed = dit::Dit::load_on(gpu, model.checkpoint(), options, {}, {});
  const auto first = streamed->prepare_prompt(pass.text), second = streamed->prepare_prompt(pass.other_text);
  streamed->set_grid(latent::grid_of(pass.x));
  latent::Latent a, b;
  const auto pair = [&] {
    const uint64_t before = gpu.bytes_copied_in();
    streamed->forward_pair(pass.x, pass.timestep, *first, *second, {}, {}, a, b, nullptr, nullptr);
    return gpu.bytes_copied_in() - before;
  };
  (void)pair();
  const uint64_t once = pair();
  const uint64_t before = gpu.bytes_copied_in();
  streamed->forward(pass.x, pass.timestep, *first, {}, {}, a, nullptr);
  CHECK(once == gpu.bytes_copied_in() - before);
}

TEST_CASE("a cancelled pass leaves a model that can go on") {
  const DitSizes sizes{1, 32, 64, 5, 24, 32};
  const RandomDit model(sizes);
  const Pass pass(sizes, 1, 4, 8);
  emulator::EmulatedDevice gpu(80, kShared, kPlenty, emulator::Copies::kSoon);
  CancelToken cancel;
  bool armed = false;
  dit::Options options;
  options.weight_slots = 2;
  options.on_block = [&](int64_t block, std::span<const float>) {
    if (armed && block == 2) cancel.request();
  };
  const auto streamed = dit::Dit::load_on(gpu, model.checkpoint(), options, {}, {});
  const auto prompt = streamed->prepare_prompt(pass.text);
  streamed->set_grid(latent::grid_of(pass.x));
  latent::Latent before, after;
  streamed->forward(pass.x, pass.timestep, *prompt, {}, {}, before, nullptr);
  armed = true;
  CHECK_THROWS_WITH(streamed->forward(pass.x, pass.timestep, *prompt, {}, cancel, after, nullptr),
                    Catch::Matchers::Contains("cancelled"));
  armed = false;
  streamed->forward(pass.x, pass.timestep, *prompt, {}, {}, after, nullptr);
  CHECK(before.values == after.values);
}

TEST_CASE("the plan of a GPU says what is allocated there") {
  const DitSizes sizes;
  const RandomDit model(sizes);
  const Pass pass(sizes, 2, 8, 12);
  for (const int slots : {0, 2, 3}) {
    INFO("slots " << slots);
    dit::Options options;
    options.weight_slots = slots;
    emulator::EmulatedDevice gpu(80, kShared, kPlenty);
    const auto config = config::read_dit_config(*model.checkpoint());
    const auto plan = dit::plan_on(gpu, config, latent::grid_of(pass.x), 40, options, {}, 2);
    CHECK(gpu.used_bytes() == 0);
    const auto loaded = dit::Dit::load_on(gpu, model.checkpoint(), options, {}, {});
    (void)run(*loaded, pass, {}, true);
    INFO(plan.text);
    const auto planned = static_cast<double>(plan.total()), used = static_cast<double>(gpu.peak_bytes());
    CHECK(used <= planned);
    CHECK(used > 0.8 * planned);
  }
}

TEST_CASE("plans of the published sizes, for docs/kernels/gpu_runner.md", "[.plan]") {
  config::DitConfig small;
  small.dim = 1536, small.heads = 12, small.ffn_dim = 8960, small.layers = 30;
  config::DitConfig large;
  large.dim = 5120, large.heads = 40, large.ffn_dim = 13824, large.layers = 40;
  emulator::EmulatedDevice gpu(89, kShared, kPlenty);
  for (const auto& config : {small, large})
    for (const int slots : {0, 3, 2}) {
      dit::Options options;
      options.weight_slots = slots;
      const auto plan = dit::plan_on(gpu, config, {21, 30, 52}, 120, options, {}, 2);
      WARN("dim " << config.dim << ", slots " << slots << ", in all " << (plan.total() >> 20) << " MiB\n" << plan.text);
    }
}

TEST_CASE("NaN is found in the block where it arose") {
  const DitSizes sizes;
  const RandomDit model(sizes);
  Pass pass(sizes, 1, 4, 4);
  emulator::EmulatedDevice gpu(80, kShared, kPlenty);
  const auto loaded = dit::Dit::load_on(gpu, model.checkpoint(), {}, {}, {});
  const auto prompt = loaded->prepare_prompt(pass.text);
  loaded->set_grid(latent::grid_of(pass.x));
  latent::Latent velocity;
  dit::ForwardReport report;
  loaded->forward(pass.x, pass.timestep, *prompt, {}, {}, velocity, &report);
  CHECK(report.first_bad_block == -1);
  pass.x.values[5] = std::nanf("");
  loaded->forward(pass.x, pass.timestep, *prompt, {}, {}, velocity, &report);
  CHECK(report.first_bad_block == 0);
}

TEST_CASE("what a GPU cannot do is refused before anything is loaded") {
  const RandomDit model(DitSizes{});
  emulator::EmulatedDevice gpu(80, kShared, kPlenty), small(80, kShared, 1000);
  dit::Options options;
  options.precision = dit::Precision::kF32;
  CHECK_THROWS_WITH(dit::Dit::load_on(gpu, model.checkpoint(), options, {}, {}), Catch::Matchers::Contains("precision is fp32"));
  try {
    (void)dit::Dit::load_on(small, model.checkpoint(), {}, {}, {});
    FAIL("1000 bytes did");
  } catch (const Error& error) {
    CHECK(error.status() == SLA2_E_MEMORY);
  }
}

}  // namespace sla2::gpu_test
