// SPDX-License-Identifier: Apache-2.0
// Whole generations of the trained small model with its diffusion transformer on the emulated GPU, beside the CPU's.
#include <catch2/catch.hpp>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "pipeline/device_choice.h"
#include "pipeline/pipeline.h"
#include "random_dit.h"

namespace sla2::gpu_test {
namespace {

using nlohmann::json;

std::shared_ptr<const pipeline::Model> small_world() {
  static const auto model = pipeline::Model::open(SLA2_SOURCE_DIR "/presets/models/small_world", {});
  return model;
}

constexpr int kTextAllocations = 4;      // activations, tables, two places: the text encoder's come first
constexpr uint64_t kTextOnly = 1200000;  // room for the text encoder of the small model, not for its transformer
constexpr const char* kTextOnGpu = "the GPU, layers streamed through two places";

struct Clip {
  std::vector<float> latent;
  std::vector<uint8_t> rgb;
  json report;
  pipeline::Outcome outcome;
};

/// The VAE stays on the CPU unless a test asks for it: fibres are slow.
config::ParamSet small_job() {
  config::ParamSet params;
  for (const auto& [name, value] : {std::pair{"prompt", "a red ball bounces"},
                                    {"width", "64"},
                                    {"height", "64"},
                                    {"frames", "5"},
                                    {"steps", "2"},
                                    {"cfg_scale", "2"},
                                    {"seed", "3"},
                                    {"vae_precision", "fp32"}})
    params.set_text(name, value);
  return params;
}

Clip generate(config::ParamSet params, device::Gpu* gpu) {
  const std::filesystem::path file =
      std::filesystem::temp_directory_path() / fmt::format("sla2_gpu_clip_{}.safetensors", ::getpid());
  params.set_text("latent_out", file.string());
  if (gpu != nullptr) params.set_text("device", "cuda");
  Clip clip;
  pipeline::Callbacks callbacks;
  callbacks.on_frames = [&](const pipeline::Frames& frames) {
    const auto bytes =
        static_cast<size_t>(frames.width) * static_cast<size_t>(frames.height) * 3 * static_cast<size_t>(frames.count);
    clip.rgb.insert(clip.rgb.end(), frames.rgb, frames.rgb + bytes);
    return SLA2_OK;
  };
  const auto job = pipeline::Job::start(small_world(), params, callbacks, gpu);
  clip.outcome = job->wait();
  clip.report = json::parse(job->report());
  if (clip.outcome.status != SLA2_OK) return clip;
  const auto latent = weights::SafetensorsFile::open(file.string());
  const weights::TensorInfo& info = latent->tensors().front();
  clip.latent.resize(static_cast<size_t>(info.element_count()));
  latent->read_bytes(info, 0, std::as_writable_bytes(std::span(clip.latent)));
  std::filesystem::remove(file);
  return clip;
}

}  // namespace

TEST_CASE("a clip of the small model from a GPU is the CPU's within bf16") {
  emulator::EmulatedDevice gpu(89, kShared, kPlenty);
  config::ParamSet exact = small_job(), narrow = small_job(), whole = small_job();
  exact.set_text("precision", "fp32");
  narrow.set_text("precision", "bf16");
  whole.set_text("vae_precision", "auto");
  const Clip expected = generate(exact, nullptr), on_cpu = generate(narrow, nullptr), got = generate(whole, &gpu);
  REQUIRE(expected.outcome.text.empty());
  REQUIRE(got.outcome.text.empty());
  const double ours = distance(got.latent, expected.latent), cpus = distance(on_cpu.latent, expected.latent);
  INFO("from fp32: the GPU " << ours << ", bf16 on the CPU " << cpus);
  CHECK(ours < 0.02);
  CHECK(ours < 2 * cpus);
  double error = 0;
  REQUIRE(got.rgb.size() == expected.rgb.size());
  for (size_t i = 0; i < got.rgb.size(); ++i)
    error += std::abs(static_cast<double>(got.rgb[i]) - static_cast<double>(expected.rgb[i]));
  CHECK(error / static_cast<double>(got.rgb.size()) < 2);  // of 255 steps
  CHECK(got.report["device"]["dit"] == "all weights on the GPU");
  CHECK(got.report["device"]["gpu"] == "emulated GPU");
  CHECK(got.report["device"]["text_encoder"] == kTextOnGpu);
  CHECK(got.report["device"]["vae"] == "whole frames on the GPU");
  CHECK(got.report["fallbacks"].empty());
  CHECK(expected.report["device"]["vae"] == "the CPU");
  CHECK(got.report["layers"][0]["forwards"] == 4);
  CHECK(expected.report["device"]["dit"] == "the CPU");
  CHECK(expected.report["device"]["gpu"].is_null());
  CHECK(gpu.used_bytes() == 0);
  CHECK(gpu.complaints().empty());
}

TEST_CASE("a GPU whose memory does not do gives way in a fixed order, saying so, with the same bits") {
  config::ParamSet params = small_job();
  for (const auto& [name, value] : {std::pair{"frames", "1"}, {"steps", "1"}}) params.set_text(name, value);
  emulator::EmulatedDevice plenty(80, kShared, kPlenty);
  const Clip expected = generate(params, &plenty);
  REQUIRE(expected.outcome.text.empty());
  const auto notes = [](const Clip& clip) { return clip.report["fallbacks"].dump(); };
  using Catch::Matchers::Contains;

  SECTION("known beforehand: the plan does not fit") {
    emulator::EmulatedDevice small(80, kShared, expected.report["device"]["planned_bytes"].get<uint64_t>());
    const Clip got = generate(params, &small);
    REQUIRE(got.outcome.text.empty());
    CHECK_THAT(notes(got), Contains("not all weights on the GPU: that needs"));
    CHECK(got.report["device"]["dit"] == "weights streamed through three places on the GPU");
    CHECK(got.latent == expected.latent);
  }
  SECTION("an allocation fails while the model is loaded") {
    emulator::EmulatedDevice failing(80, kShared, kPlenty);
    failing.fail_allocation(kTextAllocations + 3);
    const Clip got = generate(params, &failing);
    REQUIRE(got.outcome.text.empty());
    CHECK_THAT(notes(got),
               Contains("all weights on the GPU did not do") && Contains("next: weights streamed through three places"));
    CHECK(got.latent == expected.latent);
    CHECK(failing.used_bytes() == 0);
  }
  SECTION("nothing fits: the CPU") {
    emulator::EmulatedDevice tiny(80, kShared, 100000);
    const Clip got = generate(params, &tiny);
    REQUIRE(got.outcome.text.empty());
    CHECK_THAT(notes(got), Contains("not weights streamed through two places") && Contains("runs on the CPU"));
    CHECK(got.report["device"]["dit"] == "the CPU");
    CHECK_THAT(notes(got), Contains("the text encoder runs on the CPU: it needs"));
    CHECK(got.report["device"]["text_encoder"] == "the CPU");
    CHECK(got.latent == generate(params, nullptr).latent);
  }
}

TEST_CASE("an allocation that fails in the middle of a step costs nothing but the step") {
  config::ParamSet params = small_job();  // the workspace of sparse attention is asked for when the first step needs it
  for (const auto& [name, value] : {std::pair{"width", "96"},
                                    {"height", "96"},
                                    {"steps", "1"},
                                    {"cfg_scale", "1"},
                                    {"attention", "sla2"},
                                    {"sparsity", "0.5"}})
    params.set_text(name, value);
  emulator::EmulatedDevice plenty(80, kShared, kPlenty), failing(80, kShared, kPlenty);
  const Clip expected = generate(params, &plenty);
  REQUIRE(expected.outcome.text.empty());
  CHECK(expected.report["layers"][0]["sparse_forwards"] == 1);
  failing.fail_allocation(plenty.allocations() - 1);
  const Clip got = generate(params, &failing);
  REQUIRE(got.outcome.text.empty());
  CHECK(got.report["device"]["dit"] == "weights streamed through three places on the GPU");
  CHECK(got.report["fallbacks"].size() == 2);  // this, and the VAE's fp32
  CHECK(got.latent == expected.latent);
  CHECK(failing.used_bytes() == 0);
}

TEST_CASE("the text encoder on a GPU: gives way to the CPU, and shares the cache where weights are stored in bf16") {
  config::ParamSet params = small_job();
  const std::filesystem::path folder = std::filesystem::temp_directory_path() / fmt::format("sla2_gpu_embeddings_{}", ::getpid());
  for (const auto& [name, value] : {std::pair{"frames", "1"}, {"steps", "1"}}) params.set_text(name, value);
  const Clip on_cpu = generate(params, nullptr);
  CHECK(on_cpu.report["device"]["text_encoder"] == "the CPU");
  params.set_text("embedding_cache", folder.string());
  emulator::EmulatedDevice gpu(80, kShared, kTextOnly), again(80, kShared, kTextOnly), failing(80, kShared, kTextOnly);

  const Clip first = generate(params, &gpu), second = generate(params, &again);
  REQUIRE(first.outcome.text.empty());
  CHECK(first.report["device"]["text_encoder"] == kTextOnGpu);
  CHECK(first.report["device"]["text_planned_bytes"].get<uint64_t>() >= gpu.peak_bytes());
  CHECK(first.report["device"]["dit"] == "the CPU");    // there is only memory for the other
  CHECK(distance(first.latent, on_cpu.latent) < 0.02);  // a transformer that rounds to bf16
  CHECK(gpu.launches("sla2_text_attention") > 0);
  CHECK(gpu.used_bytes() == 0);
  CHECK(second.report["device"]["text_encoder"] == "the cache");
  CHECK(again.launches("sla2_text_attention") == 0);
  CHECK(second.latent == first.latent);

  const Clip cpu_after = generate(params, nullptr);
  CHECK(cpu_after.report["embedding_from_cache"] == true);  // the small model's encoder is stored in bf16, as the GPU holds it
  CHECK(distance(cpu_after.latent, on_cpu.latent) < 0.02);
  std::filesystem::remove_all(folder);
  params.set_text("embedding_cache", "");

  config::ParamSet named = params;
  named.set_text("device", "cuda");
  const auto job = pipeline::Job::start(small_world(), named, {}, &failing);
  CHECK_THAT(job->memory_plan(), Catch::Matchers::Contains("text encoding") && Catch::Matchers::Contains(kTextOnGpu));
  job->cancel();
  (void)job->wait();
  failing.fail_allocation(2);
  const Clip fallen = generate(params, &failing);
  REQUIRE(fallen.outcome.text.empty());
  CHECK_THAT(fallen.report["fallbacks"].dump(),
             Catch::Matchers::Contains("the text encoder on the GPU did not do") && Catch::Matchers::Contains("next: the CPU"));
  CHECK(fallen.report["device"]["text_encoder"] == "the CPU");
  CHECK(fallen.latent == on_cpu.latent);
  CHECK(failing.used_bytes() == 0);
}

TEST_CASE("the VAE on a GPU gives way to tiles, then to the CPU, saying so, and sends every frame once") {
  config::ParamSet params = small_job();
  for (const auto& [name, value] : {std::pair{"width", "144"},
                                    {"height", "16"},
                                    {"frames", "1"},
                                    {"steps", "1"},
                                    {"cfg_scale", "1"},
                                    {"vae_precision", "auto"}})
    params.set_text(name, value);
  config::ParamSet in_tiles = params, exact = params;
  in_tiles.set_text("vae_tile", "128");
  exact.set_text("vae_precision", "fp32");
  static emulator::EmulatedDevice plenty(80, kShared, kPlenty), again(80, kShared, kPlenty);
  static const Clip whole = generate(params, &plenty), tiles = generate(in_tiles, &again);
  static const int allocations = plenty.allocations(), tiled_allocations = again.allocations();
  REQUIRE(whole.outcome.text.empty());
  REQUIRE(tiles.outcome.text.empty());
  CHECK(whole.report["device"]["vae"] == "whole frames on the GPU");
  CHECK(tiles.report["device"]["vae"] == "tiles of 128 px on the GPU");
  const auto notes = [](const Clip& clip) { return clip.report["fallbacks"].dump(); };
  const auto planned = [](const Clip& clip) { return clip.report["device"]["vae_planned_bytes"].get<double>(); };
  using Catch::Matchers::Contains;
  constexpr double kUsable = 0.95;

  SECTION("known beforehand: whole frames do not fit") {
    emulator::EmulatedDevice small(80, kShared, static_cast<uint64_t>((planned(whole) + planned(tiles)) / 2 / kUsable));
    const Clip got = generate(params, &small);
    REQUIRE(got.outcome.text.empty());
    CHECK_THAT(notes(got),
               Contains("not decoding whole frames on the GPU: that needs") && Contains("tiles are blended, not exact"));
    CHECK(got.report["device"]["vae"] == "tiles of 128 px on the GPU");
    CHECK(got.report["settings"]["vae_tile"] == 128);
    if (got.report["device"]["dit"] != "the CPU") CHECK(got.rgb == tiles.rgb);
  }
  SECTION("the arena cannot be had when decoding begins") {
    emulator::EmulatedDevice failing(80, kShared, kPlenty);
    failing.fail_allocation(allocations - 1);
    const Clip got = generate(params, &failing);
    REQUIRE(got.outcome.text.empty());
    CHECK_THAT(notes(got),
               Contains("decoding whole frames on the GPU did not do") && Contains("next: tiles of 128 px on the GPU"));
    CHECK(got.report["device"]["vae"] == "tiles of 128 px on the GPU");
    CHECK(got.rgb == tiles.rgb);
    CHECK(failing.used_bytes() == 0);
  }
  SECTION("nor can the tiles': the CPU") {
    emulator::EmulatedDevice failing(80, kShared, kPlenty);
    failing.fail_allocation(tiled_allocations - 1);
    const Clip got = generate(in_tiles, &failing);
    REQUIRE(got.outcome.text.empty());
    CHECK_THAT(notes(got), Contains("decoding tiles of 128 px on the GPU did not do") && Contains("next: the CPU"));
    CHECK(got.report["device"]["vae"] == "the CPU in tiles of 128 px");
    CHECK(got.rgb.size() == tiles.rgb.size());
  }
  SECTION("fp32 was asked for: the CPU, with the reason") {
    const Clip got = generate(exact, &plenty);
    REQUIRE(got.outcome.text.empty());
    CHECK_THAT(notes(got), Contains("the VAE decodes on the CPU") && Contains("vae_precision is fp32"));
    CHECK(got.report["device"]["vae"] == "the CPU");
    double error = 0;
    for (size_t i = 0; i < got.rgb.size(); ++i)
      error += std::abs(static_cast<double>(got.rgb[i]) - static_cast<double>(whole.rgb[i]));
    CHECK(error / static_cast<double>(got.rgb.size()) < 1);  // of 255 steps
  }
}

TEST_CASE("the order in which a GPU gives way") {
  CHECK(pipeline::weight_slots(pipeline::Rung::kResident) == 0);
  CHECK(pipeline::weight_slots(pipeline::Rung::kThreePlaces) == 3);
  CHECK(pipeline::weight_slots(pipeline::Rung::kTwoPlaces) == 2);
  CHECK(pipeline::Rung::kResident < pipeline::Rung::kThreePlaces);
  CHECK(pipeline::Rung::kTwoPlaces < pipeline::Rung::kCpu);
}

TEST_CASE("words of the parameter device") {
  std::vector<std::string> notes;
  emulator::EmulatedDevice gpu(80, kShared, kPlenty);
  CHECK(pipeline::choose_gpu("cpu", &gpu, notes) == nullptr);
  for (const char* word : {"auto", "cuda", "cuda:0", "cuda:12"}) CHECK(pipeline::choose_gpu(word, &gpu, notes) == &gpu);
  for (const char* word : {"", "gpu", "cuda:", "cuda:-1", "cuda:1x", "CUDA"})
    CHECK_THROWS_WITH(pipeline::choose_gpu(word, &gpu, notes), Catch::Matchers::Contains("expected cpu, auto, cuda"));
  if (device::report().missing.empty()) return;  // this machine has a GPU
  CHECK(pipeline::choose_gpu("auto", nullptr, notes) == nullptr);
  try {
    (void)pipeline::choose_gpu("cuda", nullptr, notes);
    FAIL("a GPU was found");
  } catch (const Error& error) {
    CHECK(error.status() == SLA2_E_DEVICE);
    CHECK_THAT(error.what(),
               Catch::Matchers::Contains(device::report().missing) && Catch::Matchers::Contains("set device to cpu"));
  }
}

TEST_CASE("what a GPU does not do is refused, or left to the CPU where nobody insisted") {
  emulator::EmulatedDevice gpu(80, kShared, kPlenty);
  config::ParamSet params = small_job();
  for (const auto& [name, value] : {std::pair{"precision", "fp32"}, {"frames", "1"}, {"steps", "1"}})
    params.set_text(name, value);
  CHECK_THROWS_WITH(generate(params, &gpu), Catch::Matchers::Contains("precision is fp32"));
  params.set_text("device", "auto");
  const auto job = pipeline::Job::start(small_world(), params, {}, &gpu);
  CHECK(job->wait().status == SLA2_OK);
  CHECK_THAT(job->report(), Catch::Matchers::Contains("device auto: the CPU, because"));
  CHECK(json::parse(job->report())["settings"]["device"] == "cpu");
  CHECK(json::parse(job->report())["device"]["text_encoder"] == "the CPU");  // as a resumed run would have it
}

}  // namespace sla2::gpu_test
