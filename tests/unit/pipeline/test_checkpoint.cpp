// SPDX-License-Identifier: Apache-2.0
// A checkpoint gives back every bit, and damaged ones are refused with a reason.
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "pipeline/state.h"

using namespace sla2;
using namespace sla2::pipeline;

namespace {

/// A folder of its own, gone at the end.
struct Folder {
  std::filesystem::path path = std::filesystem::temp_directory_path() / ("sla2_checkpoint_" + std::to_string(::getpid()));
  Folder() { std::filesystem::create_directories(path); }
  ~Folder() { std::filesystem::remove_all(path); }
  [[nodiscard]] std::string file(const char* name) const { return (path / name).string(); }
};

ModelParts model() {
  ModelParts parts;
  parts.dit_digest = "d1";
  parts.vae_digest = "v1";
  parts.encoder_digest = "t1";
  return parts;
}

Settings settings() {
  Settings s;
  s.values.set_text("prompt", "ein \"Ball\"\n");
  s.values.set_text("steps", "3");
  s.prompt = "ein Ball";
  s.schedule = sampler::make_schedule({"wan_unipc", 3, 5.0, {}});
  return s;
}

JobState state() {
  JobState s;
  s.step = 2;
  s.x = {2, 1, 2, 3, {}};
  for (int i = 0; i < 12; ++i) s.x.values.push_back(static_cast<float>(i) / 3.0f);
  s.x.values[3] = -0.0f;
  s.x.values[4] = 1e-42f;  // a subnormal survives too
  s.noise_state = "1 2 3";
  s.solver = {{"position", {2, 2}}, {"m0", s.x.values}};
  s.encoded = true;
  s.positive = {2, 3, {1, 2, 3, 4, 5, 6.5f}};
  s.negative = {1, 3, {7, 8, 9}};
  s.prompt_tokens = 2;
  s.negative_tokens = 1;
  s.use_fp32 = true;
  s.notes = {"a fallback"};
  return s;
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

sla2_status status_of(const std::function<void()>& body) {
  try {
    body();
  } catch (const Error& error) {
    return error.status();
  }
  return SLA2_OK;
}

}  // namespace

TEST_CASE("a checkpoint gives back every bit") {
  const Folder folder;
  const std::string path = folder.file("a.ckpt");
  const JobState before = state();
  write_checkpoint(path, model(), settings(), before);
  const SavedJob saved = read_checkpoint(path);
  const JobState& after = saved.state;
  CHECK(saved.values.values() == settings().values.values());
  CHECK(saved.dit_digest == "d1");
  CHECK(saved.vae_digest == "v1");
  CHECK(saved.encoder_digest == "t1");
  CHECK(same_bits(saved.sigmas, settings().schedule.sigmas));
  CHECK(after.step == before.step);
  CHECK(same_bits(after.x.values, before.x.values));
  CHECK((after.x.channels == 2 && after.x.frames == 1 && after.x.height == 2 && after.x.width == 3));
  CHECK(after.noise_state == before.noise_state);
  REQUIRE(after.solver.size() == before.solver.size());
  for (const sampler::StateTensor& entry : before.solver) {
    const auto found =
        std::find_if(after.solver.begin(), after.solver.end(), [&](const auto& other) { return other.name == entry.name; });
    REQUIRE(found != after.solver.end());
    CHECK(same_bits(found->values, entry.values));
  }
  CHECK(same_bits(after.positive.rows, before.positive.rows));
  CHECK(same_bits(after.negative.rows, before.negative.rows));
  CHECK(after.use_fp32);
  CHECK(after.notes == before.notes);
  CHECK(checkpoint_params(path).text("prompt") == "ein \"Ball\"\n");
}

TEST_CASE("a checkpoint before the text is encoded holds no embeddings") {
  const Folder folder;
  JobState before = state();
  before.encoded = false;
  before.step = 0;
  before.solver.clear();
  write_checkpoint(folder.file("b.ckpt"), model(), settings(), before);
  const SavedJob saved = read_checkpoint(folder.file("b.ckpt"));
  CHECK_FALSE(saved.state.encoded);
  CHECK(saved.state.positive.tokens == 0);
}

TEST_CASE("a cut checkpoint is refused at every length") {
  const Folder folder;
  const std::string path = folder.file("c.ckpt"), cut = folder.file("cut.ckpt");
  write_checkpoint(path, model(), settings(), state());
  std::ifstream in(path, std::ios::binary);
  const std::string bytes{std::istreambuf_iterator<char>(in), {}};
  for (size_t length = 0; length < bytes.size(); length += 1 + length / 16) {
    std::ofstream(cut, std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(length));
    CHECK(status_of([&] { read_checkpoint(cut); }) == SLA2_E_FILE_FORMAT);
  }
}

TEST_CASE("another format and a newer version are told apart") {
  const Folder folder;
  const std::string path = folder.file("d.ckpt");
  const float value = 1;
  const std::vector<weights::OutputTensor> tensors{{"latent", DType::kF32, {1, 1, 1, 1}, &value}};
  weights::write_safetensors(path, tensors, {{"format", "sla2.latent"}});
  CHECK(status_of([&] { read_checkpoint(path); }) == SLA2_E_FILE_FORMAT);
  weights::write_safetensors(path, tensors, {{"format", "sla2.checkpoint"}, {"version", "2"}});
  CHECK(status_of([&] { read_checkpoint(path); }) == SLA2_E_VERSION);
  weights::write_safetensors(path, tensors, {{"format", "sla2.checkpoint"}, {"version", "1"}});
  CHECK(status_of([&] { read_checkpoint(path); }) == SLA2_E_FILE_FORMAT);
  CHECK(status_of([&] { read_checkpoint(folder.file("none")); }) == SLA2_E_FILE_NOT_FOUND);
}

TEST_CASE("a checkpoint that cannot be written leaves nothing behind") {
  const Folder folder;
  const std::string path = folder.file("missing/e.ckpt");
  CHECK(status_of([&] { write_checkpoint(path, model(), settings(), state()); }) == SLA2_E_FILE_WRITE);
  CHECK(std::filesystem::is_empty(folder.path));
}
