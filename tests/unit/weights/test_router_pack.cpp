// SPDX-License-Identifier: Apache-2.0
// Router packs: every rule of docs/router_pack.md, and the SLA v1 projections of other projects' checkpoints.
#include <catch2/catch.hpp>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "weights_fixture.h"

namespace sla2::weights::test {
namespace {

using Catch::Contains;
using Metadata = std::map<std::string, std::string>;

constexpr int64_t kLayers = 3, kHeads = 2, kDim = 32;

Metadata metadata(const Metadata& more = {}) {
  Metadata m{{"format", "libsla2.router_pack"},
             {"version", "1"},
             {"layers", "3"},
             {"heads", "2"},
             {"head_dim", "32"},
             {"block_q", "32"},
             {"block_k", "16"},
             {"kappa", "0.25"},
             {"base_shapes", std::string(64, 'a')}};
  for (const auto& [key, value] : more) m[key] = value;
  std::erase_if(m, [](const auto& entry) { return entry.second == "-"; });
  return m;
}

struct Tensor {
  std::string name;
  std::vector<int64_t> shape;
  DType dtype = DType::kF32;
  float first = 0.5F;
};

/// Values first, first + 1/64, … in the type asked for.
std::string write_pack(const Folder& folder, const Metadata& meta, const std::vector<Tensor>& tensors) {
  std::vector<std::vector<float>> wide;
  std::vector<std::vector<uint16_t>> narrow;
  std::vector<OutputTensor> out;
  wide.reserve(tensors.size());
  narrow.reserve(tensors.size());
  for (const Tensor& tensor : tensors) {
    int64_t count = 1;
    for (const int64_t extent : tensor.shape) count *= extent;
    std::vector<float>& values = wide.emplace_back(static_cast<size_t>(count));
    for (size_t i = 0; i < values.size(); ++i) values[i] = tensor.first + static_cast<float>(i % 64) / 64.0F;
    std::vector<uint16_t>& half = narrow.emplace_back(values.size());
    for (size_t i = 0; i < values.size(); ++i)
      half[i] = tensor.dtype == DType::kF16 ? f32_to_f16(values[i]) : f32_to_bf16(values[i]);
    const bool is_wide = tensor.dtype == DType::kF32;
    out.push_back({tensor.name, tensor.dtype, tensor.shape,
                   is_wide ? static_cast<const void*>(values.data()) : static_cast<const void*>(half.data())});
  }
  const std::string path = folder / "a.sla2.safetensors";
  write_safetensors(path, out, meta);
  return path;
}

std::string name(int layer, const std::string& what) { return fmt::format("blocks.{}.self_attn.sla2.{}", layer, what); }

/// Status and text of reading such a pack.
sla2_status read(const Metadata& meta, const std::vector<Tensor>& tensors, std::string* text) {
  const Folder folder;
  const std::string path = write_pack(folder, meta, tensors);
  return status_of([&] { static_cast<void>(read_router_pack(path)); }, text);
}

void refuses(sla2_status status, const Metadata& more, const std::vector<Tensor>& tensors, const std::string& words) {
  std::string text;
  INFO(words);
  CHECK(read(metadata(more), tensors, &text) == status);
  CHECK_THAT(text, Contains(words) && Contains("a.sla2.safetensors"));
}

}  // namespace

TEST_CASE("a pack gives back what was written") {
  const Folder folder;
  const std::string path = write_pack(folder,
                                      metadata({{"kappa", "0.25,0.05"},
                                                {"grid", "3x4x5"},
                                                {"stage", "1"},
                                                {"token_order", "tile:4x4x4"},
                                                {"smooth_k", "0"},
                                                {"router", "sla1"},
                                                {"errors", "{\"layers\":[0.1]}"},
                                                {"some_tool", "its own"}}),
                                      {{name(0, "proj_q"), {1, kDim, kDim}},
                                       {name(0, "proj_k"), {1, kDim, kDim}, DType::kBF16},
                                       {name(1, "proj_q"), {kHeads, kDim, kDim}, DType::kF16},
                                       {name(1, "proj_k"), {kHeads, kDim, kDim}},
                                       {name(1, "alpha.k2500"), {kHeads, 2}, DType::kF32, 0.25F},
                                       {name(1, "alpha.k0500"), {kHeads, 2}, DType::kF32, -0.5F}});
  const RouterPack pack = read_router_pack(path);
  CHECK(pack.metadata.layers == kLayers);
  CHECK(pack.metadata.kappa == std::vector<double>{0.25, 0.05});
  CHECK(pack.metadata.grid == std::array<int64_t, 3>{3, 4, 5});
  CHECK(pack.metadata.token_order == "tiles");
  CHECK_FALSE(pack.metadata.smooth_k);
  CHECK(pack.digest == file_sha256(path));
  REQUIRE(pack.layers.size() == kLayers);
  CHECK(pack.learned_layers() == 2);
  CHECK(pack.layers[2].empty());
  CHECK(pack.layers[0].router_heads == 1);
  CHECK(pack.layers[1].router_heads == kHeads);
  CHECK(pack.layers[1].router_q.size() == static_cast<size_t>(kHeads * kDim * kDim));
  CHECK(pack.layers[0].router_q[3] == 0.5F + 3.0F / 64);
  CHECK(pack.layers[0].router_k[3] == 0.5F + 3.0F / 64);  // exact in bf16
  CHECK(pack.layers[1].mix == std::vector<std::vector<float>>{{0.25F, 0.25F + 1.0F / 64, 0.25F + 2.0F / 64, 0.25F + 3.0F / 64},
                                                              {-0.5F, -0.5F + 1.0F / 64, -0.5F + 2.0F / 64, -0.5F + 3.0F / 64}});
  CHECK(pack.bytes() == sizeof(float) * static_cast<uint64_t>((2 + 2 * kHeads) * kDim * kDim + 2 * kHeads * 2));
}

TEST_CASE("the nearest kappa, and the smaller of two as near") {
  PackMetadata m;
  m.kappa = {0.1, 0.05, 0.2};
  CHECK(m.nearest_kappa(0.9) == 0);
  CHECK(m.nearest_kappa(0.94) == 1);
  CHECK(m.nearest_kappa(0.5) == 2);
  CHECK(m.nearest_kappa(0.85) == 0);
  m.kappa = {0.05, 0.15};
  CHECK(m.nearest_kappa(0.9) == 0);
  m.kappa = {0.15, 0.05};
  CHECK(m.nearest_kappa(0.9) == 1);
}

TEST_CASE("a low-rank router is I + up·down") {
  const Folder folder;
  constexpr int64_t kRank = 2;
  const std::string path = write_pack(folder, metadata(),
                                      {{name(2, "proj_q.down"), {kHeads, kRank, kDim}, DType::kF32, 0.1F},
                                       {name(2, "proj_q.up"), {kHeads, kDim, kRank}, DType::kF32, -0.3F},
                                       {name(2, "proj_k.down"), {kHeads, kRank, kDim}},
                                       {name(2, "proj_k.up"), {kHeads, kDim, kRank}}});
  const PackLayer layer = read_router_pack(path).layers[2];
  const auto value = [](float first, int64_t i) { return static_cast<double>(first + static_cast<float>(i % 64) / 64.0F); };
  for (int64_t h = 0; h < kHeads; ++h)
    for (int64_t i = 0; i < kDim; ++i)
      for (int64_t j = 0; j < kDim; ++j) {
        double expected = i == j ? 1 : 0;
        for (int64_t r = 0; r < kRank; ++r)
          expected += value(-0.3F, (h * kDim + i) * kRank + r) * value(0.1F, (h * kRank + r) * kDim + j);
        REQUIRE(layer.router_q[static_cast<size_t>((h * kDim + i) * kDim + j)] == Approx(expected).epsilon(1e-6));
      }
}

TEST_CASE("metadata that is missing, wrong or newer is refused") {
  for (const char* key : {"layers", "heads", "head_dim", "block_q", "block_k", "kappa", "base_shapes", "version"})
    refuses(SLA2_E_FILE_FORMAT, {{key, "-"}}, {}, fmt::format("\"{}\" is missing", key));
  refuses(SLA2_E_VERSION, {{"version", "2"}}, {}, "newer library");
  refuses(SLA2_E_FILE_FORMAT, {{"version", "one"}}, {}, "\"version\"");
  refuses(SLA2_E_FILE_FORMAT, {{"format", "other"}}, {}, "expected a router pack");
  refuses(SLA2_E_FILE_FORMAT, {{"layers", "0"}}, {}, "\"layers\" is \"0\"");
  refuses(SLA2_E_FILE_FORMAT, {{"head_dim", "33"}}, {}, "multiple of 8");
  refuses(SLA2_E_FILE_FORMAT, {{"block_q", "48"}}, {}, "one of 32, 64, 128");
  for (const char* kappa : {"0", "1.5", "x", "0.1,", "nan"})
    refuses(SLA2_E_FILE_FORMAT, {{"kappa", kappa}}, {}, "kept fractions");
  refuses(SLA2_E_FILE_FORMAT, {{"kappa", "0.1,0.100001"}}, {}, "twice");
  refuses(SLA2_E_FILE_FORMAT, {{"mode", "full"}}, {}, "one of sla2, sla1");
  refuses(SLA2_E_FILE_FORMAT, {{"alpha_mode", "block"}}, {}, "\"grid\"");
  refuses(SLA2_E_FILE_FORMAT, {{"grid", "3x4"}}, {}, "21x30x52");
  refuses(SLA2_E_FILE_FORMAT, {{"token_order", "tile:2x2x2"}}, {}, "tile:4x4x4");
  refuses(SLA2_E_FILE_FORMAT, {{"smooth_k", "yes"}}, {}, "one of 0, 1");
  refuses(SLA2_E_FILE_FORMAT, {{"errors", "[1]"}}, {}, "JSON object");
  refuses(SLA2_E_UNSUPPORTED, {{"phi", "elu"}}, {}, "phi");
  refuses(SLA2_E_UNSUPPORTED, {{"rope", "pre"}}, {}, "rope");
}

TEST_CASE("tensors that are unknown, misshapen or not finite are refused") {
  const auto format = SLA2_E_FILE_FORMAT;
  refuses(format, {}, {{"blocks.0.self_attn.sla2.beta", {2}}}, "sla2.beta' is unknown");
  refuses(format, {}, {{"something", {2}}}, "'something' is unknown");
  refuses(format, {}, {{name(3, "alpha"), {kHeads, 2}}}, "of layer 3; the pack says 3 layers");
  refuses(format, {}, {{"blocks.01.self_attn.sla2.alpha", {kHeads, 2}}}, "unknown");
  refuses(format, {}, {{name(0, "alpha.k2500"), {kHeads, 2}}}, "unknown");                          // one kappa: plain alpha
  refuses(format, {{"kappa", "0.1,0.05"}}, {{name(0, "alpha"), {kHeads, 2}}}, "unknown");           // two: by kappa
  refuses(format, {{"kappa", "0.1,0.05"}}, {{name(0, "alpha.k1000"), {kHeads, 2}}}, "for 1 of 2");  // all or none
  refuses(format, {{"alpha_mode", "const"}}, {{name(0, "alpha"), {kHeads}}}, "unknown");
  refuses(format, {}, {{name(0, "alpha"), {kHeads}}}, "expected shape [2, 2], got [2]");
  refuses(format, {{"alpha_mode", "head_scalar"}}, {{name(0, "alpha"), {kHeads, 2}}}, "expected shape [2]");
  refuses(format, {{"alpha_mode", "block"}, {"grid", "3x4x5"}}, {{name(0, "alpha"), {kHeads, 1}}}, "expected shape [2, 2]");
  refuses(format, {}, {{name(0, "proj_l.weight"), {kDim, kDim}}}, "unknown");  // of mode sla1
  refuses(format, {{"mode", "sla1"}}, {{name(0, "proj_l.bias"), {kDim}}}, "without proj_l.weight");
  refuses(format, {}, {{name(0, "proj_q"), {1, kDim, kDim}}}, "both proj_q and proj_k");
  refuses(format, {}, {{name(0, "proj_q"), {1, kDim, kDim}}, {name(0, "proj_k"), {2, kDim, kDim}}}, "as many heads");
  refuses(format, {}, {{name(0, "proj_q"), {3, kDim, kDim}}, {name(0, "proj_k"), {3, kDim, kDim}}}, "the first 1 or 2 heads");
  refuses(format, {}, {{name(0, "proj_q.down"), {1, 4, kDim}}}, ".down and .up");
  refuses(format, {}, {{name(0, "proj_q.down"), {1, 0, kDim}}, {name(0, "proj_q.up"), {1, kDim, 0}}}, "of rank 0");
  refuses(format, {}, {{name(0, "alpha"), {kHeads, 2}, DType::kF32, std::numeric_limits<float>::quiet_NaN()}}, "NaN or infinity");
  refuses(format, {}, {{name(0, "alpha"), {kHeads, 2}, DType::kBF16, std::numeric_limits<float>::infinity()}}, "NaN or infinity");
}

TEST_CASE("files that are no packs say what they are and what to do") {
  const Folder folder;
  std::string text;
  const auto status = [&](const std::string& path) {
    return status_of([&] { static_cast<void>(read_router_pack(path)); }, &text);
  };
  CHECK(status(folder / "none.safetensors") == SLA2_E_FILE_NOT_FOUND);
  write_bytes(folder / "a.pth", std::string("PK\x03\x04") + std::string(100, 'x'));
  CHECK(status(folder / "a.pth") == SLA2_E_FILE_FORMAT);
  CHECK_THAT(text, Contains("load_sla1") && Contains("pickle"));
  const std::string pack = write_pack(folder, metadata(), {{name(0, "alpha"), {kHeads, 2}}});
  std::filesystem::resize_file(pack, std::filesystem::file_size(pack) - 1);
  CHECK(status(pack) == SLA2_E_FILE_FORMAT);
}

TEST_CASE("a header length is not taken for another format") {
  for (const size_t length : {0x0280, 0x8b1f}) {  // begin as a pickle and as gzip do
    const Folder folder;
    write_bytes(folder / "a.safetensors", file_bytes("{}" + std::string(length - 2, ' '), ""));
    CHECK(SafetensorsFile::open(folder / "a.safetensors")->tensors().empty());
  }
}

TEST_CASE("info says what a pack is for") {
  const Folder folder;
  const std::string path = write_pack(folder, metadata({{"base", "tiny"}, {"stage", "2"}, {"errors", "{\"mean\":0.03}"}}),
                                      {{name(0, "alpha"), {kHeads, 2}}});
  const Identity identity = identify(path);
  CHECK(identity.kind == Kind::kRouterPack);
  CHECK_THAT(identity.summary,
             Contains("router pack") && Contains("mode sla2") && Contains("kappa 0.25") && Contains("model trained"));
  CHECK_THAT(identity.fits, Contains("tiny") && Contains("3 layers and 2 heads of 32"));
  const nlohmann::json json = nlohmann::json::parse(identity.json);
  CHECK(json["errors"]["mean"] == 0.03);
  CHECK(json["digest"] == file_sha256(path));
  CHECK(json["kappa"] == std::vector<double>{0.25});
}

TEST_CASE("SLA v1 projections are found whatever module holds them") {
  for (const char* module : {"self_attn.attn_op.local_attn.", "self_attn.attn.", "self_attn."}) {
    INFO(module);
    const Folder folder;
    const std::string head = fmt::format("net.blocks.1.{}proj_l.", module);
    const std::string path = write_pack(folder, {},
                                        {{"net.head.modulation", {1, 2, 64}},
                                         {"net.time_projection.1.weight", {1}},
                                         {"net.blocks.0.self_attn.q.weight", {64, 64}},
                                         {head + "weight", {kDim, kDim}, DType::kF32, 0.25F},
                                         {head + "bias", {kDim}, DType::kBF16, -0.5F}});
    const auto checkpoint = Checkpoint::open(path);
    CHECK(has_sla1_weights(*checkpoint));
    CHECK_THAT(checkpoint->identity().summary, Contains("SLA v1 projections in 1 layers"));
    const RouterPack pack = sla1_weights(*checkpoint, 2, kHeads, kDim);
    CHECK(pack.in_weights);
    CHECK(pack.metadata.mode == "sla1");
    CHECK(pack.metadata.linear_scope == "global");
    CHECK_FALSE(pack.metadata.smooth_k);
    CHECK(pack.layers[0].empty());
    CHECK(pack.layers[1].proj[2] == 0.25F + 2.0F / 64);
    CHECK(pack.layers[1].proj_bias[1] == -0.5F + 1.0F / 64);
    std::string text;
    CHECK(status_of([&] { static_cast<void>(sla1_weights(*checkpoint, 2, 4, 16)); }, &text) == SLA2_E_MODEL_MISMATCH);
    CHECK_THAT(text, Contains("expected shape [16, 16], got [32, 32]"));
  }
}

TEST_CASE("SHA-256 is that of FIPS 180-4") {
  const auto hash = [](const std::string& text, size_t part) {
    Sha256 sha;
    for (size_t at = 0; at < text.size(); at += part) sha.add(std::string_view(text).substr(at, part));
    return sha.hex();
  };
  CHECK(Sha256().hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  CHECK(hash("abc", 3) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  CHECK(hash("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", 7) ==
        "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  CHECK(hash(std::string(1000000, 'a'), 1001) == "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
  for (const size_t size : {55, 56, 63, 64, 65}) CHECK(hash(std::string(size, 'b'), 1) == hash(std::string(size, 'b'), 64));
}

}  // namespace sla2::weights::test
