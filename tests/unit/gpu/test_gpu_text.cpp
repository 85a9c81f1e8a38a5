// SPDX-License-Identifier: Apache-2.0
// The text encoder on the emulated GPU beside the CPU's in fp32, which tests/python/test_text.py holds to transformers.
#include <catch2/catch.hpp>

#include "random_dit.h"
#include "random_umt5.h"

namespace sla2::gpu_test {
namespace {

using Prompts = std::vector<std::vector<int32_t>>;

/// One of more than 128 tokens, where the last bucket is all that is left, and two short ones.
Prompts some_prompts(const Umt5Sizes& s) {
  return {random_ids(150, s.vocabulary, 1), random_ids(21, s.vocabulary, 2), random_ids(1, s.vocabulary, 3)};
}

std::vector<text::Embedding> on_gpu(device::Gpu& gpu, const RandomUmt5& model, const Prompts& prompts) {
  return text::Umt5Encoder::create_on(gpu, model.checkpoint())->encode_all(prompts, {}, {});
}
std::vector<text::Embedding> on_cpu(const RandomUmt5& model, const Prompts& prompts) {
  return text::Umt5Encoder::create(model.checkpoint())->encode_all(prompts, {}, {});
}

std::vector<int64_t> tokens_of(const Prompts& prompts) {
  std::vector<int64_t> tokens;
  for (const auto& ids : prompts) tokens.push_back(static_cast<int64_t>(ids.size()));
  return tokens;
}

/// A number on its way into a product is off by 2^-17 of itself at most, 2^-19 as a rule; 16 products in a row, and what softmax
/// and norms make of it. bf16 alone would be 2^8 times as far off.
constexpr double kTwoParts = 2e-5;

}  // namespace

TEST_CASE("UMT5 on the GPU: with weights of bf16 its numbers are the CPU's fp32 ones") {
  const Umt5Sizes sizes;
  const RandomUmt5 model(sizes, DType::kBF16, true);
  const Prompts prompts = some_prompts(sizes);
  const auto expected = on_cpu(model, prompts);
  emulator::EmulatedDevice gpu(80, kShared, kPlenty);
  std::vector<double> parts;
  const auto got =
      text::Umt5Encoder::create_on(gpu, model.checkpoint())->encode_all(prompts, {}, [&](double part) { parts.push_back(part); });
  REQUIRE(got.size() == prompts.size());
  for (size_t i = 0; i < prompts.size(); ++i) {
    CHECK(got[i].tokens == static_cast<int64_t>(prompts[i].size()));
    CHECK(got[i].width == sizes.d_model);
    INFO("prompt of " << prompts[i].size() << " tokens");
    CHECK(distance(got[i].rows, expected[i].rows) < kTwoParts);
  }
  CHECK(parts == std::vector<double>{0.25, 0.5, 0.75, 1});
  const text::GpuEncoderPlan plan =
      text::plan_on(gpu, text::Umt5Encoder::create(model.checkpoint())->config(), tokens_of(prompts));
  CHECK(gpu.peak_bytes() <= plan.device_bytes);
  CHECK(gpu.peak_bytes() * 5 >= plan.device_bytes * 4);
  CHECK(gpu.launches("sla2_text_attention") == sizes.layers * 3);
  CHECK(gpu.launches("sla2_gemm_bf16") == sizes.layers * 8);  // all prompts go through a layer together
  CHECK(gpu.used_bytes() == 0);
  CHECK(gpu.complaints().empty());
}

TEST_CASE("UMT5 on the GPU: weights of fp32 become bf16, and that is all the difference") {
  const Umt5Sizes sizes;
  const RandomUmt5 exact(sizes, DType::kF32, false), narrow(sizes, DType::kF32, true), stored(sizes, DType::kBF16, true);
  const Prompts prompts = {random_ids(19, sizes.vocabulary, 4)};
  emulator::EmulatedDevice gpu(80, kShared, kPlenty);
  const auto got = on_gpu(gpu, exact, prompts), fp32 = on_cpu(exact, prompts), rounded = on_cpu(narrow, prompts);
  const double ours = distance(got[0].rows, fp32[0].rows), weights = distance(rounded[0].rows, fp32[0].rows);
  INFO("from fp32: the GPU " << ours << ", the CPU with the same rounded weights " << weights);
  CHECK(ours < 1.01 * weights);
  CHECK(ours > 0.99 * weights);
  CHECK(got[0].rows == on_gpu(gpu, stored, prompts)[0].rows);

  const std::string digest = "0123";
  CHECK(text::embedding_digest(*exact.checkpoint(), digest, false) == digest);
  CHECK(text::embedding_digest(*exact.checkpoint(), digest, true) != digest);
  CHECK(text::embedding_digest(*stored.checkpoint(), digest, true) == digest);
}

TEST_CASE("UMT5 on the GPU: its embeddings have a name of their own in the cache unless weights are stored in bf16") {
  const RandomUmt5 narrow({}, DType::kBF16, true), wide({}, DType::kF32, false);
  CHECK(text::embedding_digest(*narrow.checkpoint(), "d", true) == text::embedding_digest(*narrow.checkpoint(), "d", false));
  CHECK(text::embedding_digest(*wide.checkpoint(), "d", true) != text::embedding_digest(*wide.checkpoint(), "d", false));
}

TEST_CASE("UMT5 on the GPU: the same bits twice, alone or with others, with either order of copies") {
  const Umt5Sizes sizes{.layers = 5};  // each place is used again
  const RandomUmt5 model(sizes, DType::kBF16, true);
  const Prompts prompts = {random_ids(18, sizes.vocabulary, 5), random_ids(7, sizes.vocabulary, 6)};
  emulator::EmulatedDevice late(80, kShared, kPlenty), soon(120, kShared, kPlenty, emulator::Copies::kSoon);
  const auto expected = on_gpu(late, model, prompts);
  for (size_t i = 0; i < prompts.size(); ++i) {
    CHECK(on_gpu(late, model, {prompts[i]})[0].rows == expected[i].rows);
    CHECK(on_gpu(soon, model, {prompts[i]})[0].rows == expected[i].rows);
  }
  CHECK(on_gpu(soon, model, prompts)[1].rows == expected[1].rows);
  CHECK(on_gpu(late, model, {}).empty());
  CHECK(late.complaints().empty());
  CHECK(soon.complaints().empty());
}

TEST_CASE("UMT5 on the GPU: memory that is not there, a cancel, and damaged weights end the call and leave nothing") {
  const Umt5Sizes sizes{.layers = 3};
  const RandomUmt5 model(sizes, DType::kBF16, true);
  const Prompts prompts = {random_ids(5, sizes.vocabulary, 5)};
  emulator::EmulatedDevice gpu(80, kShared, kPlenty);
  const auto encoder = text::Umt5Encoder::create_on(gpu, model.checkpoint());
  const auto expected = encoder->encode_all(prompts, {}, {});
  const int allocations = gpu.allocations();
  CHECK(allocations == 4);  // activations, tables, two places
  const auto status_of = [&](const text::Umt5Encoder& e, const CancelToken& cancel,
                             const std::function<void(double)>& progress) -> int {
    try {
      (void)e.encode_all(prompts, cancel, progress);
    } catch (const Error& error) {
      return error.status();
    }
    return SLA2_OK;
  };
  for (int n = 0; n < allocations; ++n) {
    gpu.fail_allocation(n);
    CHECK(status_of(*encoder, {}, {}) == SLA2_E_MEMORY);
    CHECK(gpu.used_bytes() == 0);
  }
  CancelToken cancel;
  CHECK(status_of(*encoder, cancel, [&](double) { cancel.request(); }) == SLA2_E_CANCELLED);
  CHECK(gpu.used_bytes() == 0);
  CHECK(encoder->encode_all(prompts, {}, {})[0].rows == expected[0].rows);

  Umt5Sizes infinite = sizes;
  infinite.layers = 1;
  const RandomUmt5 damaged(infinite, DType::kBF16, true, 5, INFINITY);
  CHECK(status_of(*text::Umt5Encoder::create_on(gpu, damaged.checkpoint()), {}, {}) == SLA2_E_NUMERIC);
  CHECK(gpu.complaints().empty());
}

TEST_CASE("UMT5 on the GPU: what the kernels do not do is refused with its remedy") {
  emulator::EmulatedDevice gpu(80, kShared, kPlenty);
  Umt5Sizes sizes{.d_model = 20, .layers = 1};
  const RandomUmt5 narrow(sizes, DType::kBF16, true);
  CHECK_THROWS_WITH(text::Umt5Encoder::create_on(gpu, narrow.checkpoint()), Catch::Matchers::Contains("a width of 20"));
  sizes.d_model = 24;
  const RandomUmt5 model(sizes, DType::kBF16, true);
  CHECK_THROWS_WITH(on_gpu(gpu, model, {random_ids(3000, sizes.vocabulary, 1)}),
                    Catch::Matchers::Contains("3000 tokens") && Catch::Matchers::Contains("on the CPU"));
  CHECK_THROWS_WITH(on_gpu(gpu, model, {{1, 2}, {}}), Catch::Matchers::Contains("expected 1 to"));
  CHECK_THROWS_WITH(on_gpu(gpu, model, {{1, 4000}}), Catch::Matchers::Contains("outside of the vocabulary"));
  CHECK(gpu.used_bytes() == 0);
}

TEST_CASE("plans of umt5-xxl", "[.plan]") {
  emulator::EmulatedDevice gpu(89, kShared, kPlenty);
  const text::EncoderConfig xxl{4096, 64, 10240, 24, 64, 256384};
  for (const std::vector<int64_t>& tokens : {std::vector<int64_t>{512, 512}, {120, 126}}) {
    const text::GpuEncoderPlan plan = text::plan_on(gpu, xxl, tokens);
    WARN(plan.device_bytes / 1048576 << " MiB on the GPU, " << plan.pinned_bytes / 1048576 << " MiB pinned\n" << plan.text);
  }
}

}  // namespace sla2::gpu_test
