// SPDX-License-Identifier: Apache-2.0
// Headers of the published models, without their data: sparse files of the true size.
#include <unistd.h>

#include <ctime>
#include <nlohmann/json.hpp>

#include "weights_fixture.h"

namespace sla2::weights::test {
namespace {

struct Shape {
  std::string name;
  std::vector<int64_t> extents;
};

/// A bf16 file of these shapes whose data are a hole: terabytes cost nothing.
void write_hole(const std::string& path, const std::vector<Shape>& shapes) {
  nlohmann::json header = nlohmann::json::object();
  uint64_t at = 0;
  for (const Shape& shape : shapes) {
    uint64_t bytes = 2;
    for (const int64_t extent : shape.extents) bytes *= static_cast<uint64_t>(extent);
    header[shape.name] = {{"dtype", "BF16"}, {"shape", shape.extents}, {"data_offsets", {at, at + bytes}}};
    at += bytes;
  }
  const std::string bytes = file_bytes(header.dump(), "");
  write_bytes(path, bytes);
  REQUIRE(::truncate(path.c_str(), static_cast<off_t>(bytes.size() + at)) == 0);
}

void add_linear(std::vector<Shape>& all, const std::string& name, int64_t out, int64_t in) {
  all.push_back({name + ".weight", {out, in}});
  all.push_back({name + ".bias", {out}});
}

std::vector<Shape> wan_dit(int64_t dim, int64_t layers, int64_t ffn, int64_t in_channels) {
  std::vector<Shape> all{
      {"patch_embedding.weight", {dim, in_channels, 1, 2, 2}}, {"patch_embedding.bias", {dim}}, {"head.modulation", {1, 2, dim}}};
  add_linear(all, "text_embedding.0", dim, 4096);
  add_linear(all, "text_embedding.2", dim, dim);
  add_linear(all, "time_embedding.0", dim, 256);
  add_linear(all, "time_embedding.2", dim, dim);
  add_linear(all, "time_projection.1", 6 * dim, dim);
  add_linear(all, "head.head", 64, dim);
  for (int64_t i = 0; i < layers; ++i) {
    const std::string block = fmt::format("blocks.{}.", i);
    all.push_back({block + "modulation", {1, 6, dim}});
    for (const char* part : {"self_attn.", "cross_attn."}) {
      for (const char* linear : {"q", "k", "v", "o"}) add_linear(all, block + part + linear, dim, dim);
      all.push_back({block + part + "norm_q.weight", {dim}});
      all.push_back({block + part + "norm_k.weight", {dim}});
    }
    all.push_back({block + "norm3.weight", {dim}});
    all.push_back({block + "norm3.bias", {dim}});
    add_linear(all, block + "ffn.0", ffn, dim);
    add_linear(all, block + "ffn.2", dim, ffn);
  }
  return all;
}

}  // namespace

TEST_CASE("the published DiTs are recognised from headers alone, in milliseconds") {
  const Folder folder;
  const std::string path = folder / "wan.safetensors";
  write_hole(path, wan_dit(1536, 30, 8960, 16));
  const std::clock_t start = std::clock();  // processor time: neighbours on a busy machine do not count
  const Identity small = identify(path);
  const double took = static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
  CHECK(small.kind == Kind::kWanDit);
  CHECK(small.variant == "t2v");
  CHECK(small.summary.starts_with("Wan DiT t2v 1.3B (30 layers, width 1536, text width 4096), 1.4B parameters in bf16, 2.8 GB"));
  const auto json = nlohmann::json::parse(small.json);
  CHECK(json["parameters"] == 1418996800);  // wan_runner §1.1: 1.4190 B
  CHECK(json["sizes"]["head_dim"] == 128);
  CHECK(json["storage"]["bf16"]["tensors"] == 825);
  CHECK(took < 0.5);  // 0.05 s; sanitizers are slow

  write_hole(path, wan_dit(5120, 40, 13824, 16));
  CHECK(identify(path).summary.starts_with("Wan DiT t2v 14B"));
  auto image = wan_dit(5120, 40, 13824, 36);
  add_linear(image, "blocks.0.cross_attn.k_img", 5120, 5120);
  write_hole(path, image);
  CHECK(identify(path).variant == "i2v");
  image.push_back({"img_emb.emb_pos", {1, 514, 1280}});
  write_hole(path, image);
  CHECK(identify(path).variant == "flf2v");
  auto vace = wan_dit(1536, 30, 8960, 16);
  vace.push_back({"vace_blocks.0.before_proj.bias", {1536}});
  write_hole(path, vace);
  CHECK(identify(path).variant == "vace");
}

TEST_CASE("T5 v1.1 is called the wrong encoder, UMT5-XXL the right one") {
  const Folder folder;
  const std::string path = folder / "t5.safetensors";
  const auto encoder = [](int64_t vocabulary, bool umt5) {
    std::vector<Shape> all{{"shared.weight", {vocabulary, 4096}}, {"encoder.final_layer_norm.weight", {4096}}};
    for (int64_t i = 0; i < 24; ++i) {
      const std::string block = fmt::format("encoder.block.{}.layer.", i);
      all.push_back({block + "0.SelfAttention.q.weight", {4096, 4096}});
      all.push_back({block + "1.DenseReluDense.wi_0.weight", {10240, 4096}});
      if (umt5 || i == 0) all.push_back({block + "0.SelfAttention.relative_attention_bias.weight", {32, 64}});
    }
    return all;
  };
  write_hole(path, encoder(32128, false));
  const Identity wrong = identify(path);
  CHECK(wrong.kind == Kind::kT5);
  CHECK(wrong.summary.find("T5-XXL v1.1 (24 layers, width 4096, vocabulary 32128): not the text encoder of Wan") == 0);
  write_hole(path, encoder(256384, true));
  const Identity right = identify(path);
  CHECK(right.kind == Kind::kUmt5);
  CHECK(right.variant == "xxl");
  CHECK(right.fits.find("needs spiece.model") != std::string::npos);
}

TEST_CASE("files of other formats are named, and what to do is said") {
  const Folder folder;
  const std::string path = folder / "file";
  const std::vector<std::pair<std::string, const char*>> all{
      {"", "an empty file"},
      {std::string("PK\x03\x04", 4) + std::string(60, 'x'), "can run code"},
      {"\x80\x02}q\x01.............", "Python pickle"},
      {"GGUF............", "GGUF"},
      {"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"},
      {"\n<!DOCTYPE html><html>", "a web page"},
      {"{\"error\":\"Invalid username or password.\"}", "JSON"},
      {"short", "too short"},
  };
  for (const auto& [bytes, says] : all) {
    write_bytes(path, bytes);
    const Identity identity = identify(path);
    INFO(identity.summary);
    CHECK(identity.kind == Kind::kOther);
    CHECK(identity.summary.find(says) != std::string::npos);
    CHECK(nlohmann::json::parse(identity.json)["kind"] == "other");
    std::string text;
    CHECK(status_of([&] { (void)Checkpoint::open(path); }, &text) == SLA2_E_FILE_FORMAT);
    CHECK(text.find(says) != std::string::npos);
  }
}

TEST_CASE("our own files say so in their metadata") {
  const Folder folder;
  const float number = 1;
  const OutputTensor tensor{"latent", DType::kF32, {}, &number};
  write_safetensors(folder / "a.safetensors", std::span(&tensor, 1), {{"format", "sla2.latent"}});
  CHECK(identify(folder / "a.safetensors").kind == Kind::kLatent);
  write_safetensors(folder / "a.safetensors", std::span(&tensor, 1), {{"format", "sla2.checkpoint"}});
  CHECK(identify(folder / "a.safetensors").kind == Kind::kCheckpoint);
  write_safetensors(folder / "a.safetensors", std::span(&tensor, 1));
  const Identity stranger = identify(folder / "a.safetensors");
  CHECK(stranger.kind == Kind::kUnknown);
  CHECK(stranger.summary.find("unknown model") != std::string::npos);
}

}  // namespace sla2::weights::test
