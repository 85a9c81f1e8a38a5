// SPDX-License-Identifier: Apache-2.0
// Opening a model: find its three networks, make sure each is what its role asks for and that they fit each other.
// Everything here comes from file headers, so a wrong text encoder is named in milliseconds, not after minutes of loading.
#include "pipeline/model.h"

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

namespace sla2::pipeline {

namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using weights::Kind;

constexpr int kModelJsonVersion = 1;
constexpr uintmax_t kLargestModelJson = 1u << 20;  // bytes
constexpr const char* kModelJson = "model.json";

/// Where the parts are, before anything is opened.
struct PartPaths {
  std::string name, dit, vae, text_encoder, tokenizer;
  config::ParamSet defaults;
};

fs::path path_of(const std::string& utf8) { return fs::u8path(utf8); }

std::string read_text(const fs::path& path) {
  std::error_code error;
  const uintmax_t bytes = fs::file_size(path, error);
  SLA2_CHECK(!error, SLA2_E_FILE_READ, "{}: cannot be read: {}", path.string(), error.message());
  SLA2_CHECK(bytes <= kLargestModelJson, SLA2_E_FILE_FORMAT, "{}: {} bytes is too large for a model.json", path.string(), bytes);
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  SLA2_CHECK(file.good() || file.eof(), SLA2_E_FILE_READ, "{}: cannot be read; check its permissions", path.string());
  return text.str();
}

PartPaths read_model_json(const fs::path& file) {
  const fs::path folder = file.parent_path();
  const std::string where = file.string();
  const json root = json::parse(read_text(file), nullptr, /*allow_exceptions=*/false);
  SLA2_CHECK(root.is_object(), SLA2_E_FILE_FORMAT, "{}: not a JSON object", where);
  const auto text = [&](const char* key, bool needed) -> std::string {
    const auto found = root.find(key);
    if (found == root.end()) {
      SLA2_CHECK(!needed, SLA2_E_FILE_FORMAT, "{}: the key \"{}\" is missing", where, key);
      return {};
    }
    SLA2_CHECK(found->is_string(), SLA2_E_FILE_FORMAT, "{}: \"{}\" must be a text in quotes", where, key);
    return found->get<std::string>();
  };
  SLA2_CHECK(text("format", true) == "sla2.model", SLA2_E_FILE_FORMAT, "{}: \"format\" is \"{}\", expected \"sla2.model\"", where,
             text("format", true));
  const auto version = root.find("version");
  SLA2_CHECK(version != root.end() && version->is_number_integer(), SLA2_E_FILE_FORMAT, "{}: \"version\" must be a whole number",
             where);
  SLA2_CHECK(*version <= kModelJsonVersion, SLA2_E_VERSION,
             "{}: version {} is newer than this library knows ({}); use a newer one", where, version->dump(), kModelJsonVersion);
  SLA2_CHECK(text("family", true) == "wan2.1", SLA2_E_UNSUPPORTED,
             "{}: family \"{}\" is not supported; this version runs \"wan2.1\"", where, text("family", true));
  const auto part = [&](const char* key, bool needed) {
    const std::string name = text(key, needed);
    return name.empty() ? name : (folder / path_of(name)).string();
  };
  PartPaths paths{text("name", true),         part("dit", true),        part("vae", true),
                  part("text_encoder", true), part("tokenizer", false), {}};
  if (const auto defaults = root.find("defaults"); defaults != root.end()) {
    paths.defaults.merge_json(defaults->dump(), where + ", defaults");
    if (const std::string pack = paths.defaults.text("pack"); !pack.empty())
      paths.defaults.set_text("pack", (folder / path_of(pack)).string());
    std::vector<weights::LoraSource> loras = weights::parse_lora_list(paths.defaults.text("lora"));
    for (weights::LoraSource& lora : loras) lora.path = (folder / path_of(lora.path)).string();
    if (!loras.empty()) paths.defaults.set_text("lora", weights::lora_list_text(loras));
  }
  return paths;
}

PartPaths find_parts(const std::string& path) {
  const fs::path at = path_of(path);
  std::error_code error;
  SLA2_CHECK(fs::exists(at, error), SLA2_E_FILE_NOT_FOUND,
             "model \"{}\": no such file or folder; give a folder with model.json, a diffusers folder, or a DiT file", path);
  if (at.filename() == kModelJson) return read_model_json(at);
  if (fs::is_directory(at, error)) {
    if (fs::exists(at / kModelJson, error)) return read_model_json(at / kModelJson);
    if (fs::is_directory(at / "transformer", error)) {
      PartPaths paths{fs::absolute(at).lexically_normal().filename().string(),
                      weights::part_path(path, Kind::kWanDit),
                      weights::part_path(path, Kind::kWanVae),
                      weights::part_path(path, Kind::kUmt5),
                      "",
                      {}};
      const fs::path spiece = at / "tokenizer" / "spiece.model";
      if (fs::exists(spiece, error)) paths.tokenizer = spiece.string();
      return paths;
    }
  }
  return {at.stem().string(), path, "", "", "", {}};
}

std::shared_ptr<const weights::Checkpoint> open_part(const std::string& path, Kind kind, const char* role, const char* wanted,
                                                     const char* parameter) {
  SLA2_CHECK(
      !path.empty(), SLA2_E_ARGUMENT,
      "the model is a single file and its {} is not named; set the parameter \"{}\" to {}, or use a folder with model.json", role,
      parameter, wanted);
  auto checkpoint = weights::Checkpoint::open(path);
  const weights::Identity& identity = checkpoint->identity();
  SLA2_CHECK(identity.kind == kind, SLA2_E_MODEL_MISMATCH, "{} is not the {} this needs: {}. Expected {}{}", path, role,
             identity.summary.empty() ? std::string("a file of unknown kind") : identity.summary, wanted,
             identity.fits.empty() ? std::string() : ". What fits that file: " + identity.fits);
  return checkpoint;
}

void check_fit(const ModelParts& parts) {
  SLA2_CHECK(parts.encoder_config.d_model == parts.dit_config.text_dim, SLA2_E_MODEL_MISMATCH,
             "the text encoder does not fit the DiT: {} gives rows of {}, {} expects {}; use the UMT5 encoder made for this DiT",
             parts.text_encoder->path(), parts.encoder_config.d_model, parts.dit->path(), parts.dit_config.text_dim);
  SLA2_CHECK(parts.dit_config.in_channels == parts.vae_config.z_dim, SLA2_E_MODEL_MISMATCH,
             "the VAE does not fit the DiT: {} has {} latent channels, {} expects {}; use the VAE made for this DiT",
             parts.vae->path(), parts.vae_config.z_dim, parts.dit->path(), parts.dit_config.in_channels);
  SLA2_CHECK(parts.dit_config.in_channels == parts.dit_config.out_channels, SLA2_E_UNSUPPORTED,
             "{}: {} input and {} output channels; text-to-video needs equal counts", parts.dit->path(),
             parts.dit_config.in_channels, parts.dit_config.out_channels);
}

/// [C*3] factors and 3 offsets as one list, from the VAE's configuration; empty if it has none.
std::vector<float> read_preview_factors(const weights::Checkpoint& vae, int64_t channels) {
  const json root = json::parse(vae.config_json(), nullptr, false);
  if (!root.is_object()) return {};
  const auto found = root.find("latent_rgb_factors");
  if (found == root.end()) return {};
  const json& list = *found;
  std::vector<float> factors;
  const auto take = [&](const json& value) {
    SLA2_CHECK(value.is_number(), SLA2_E_FILE_FORMAT, "{}: \"latent_rgb_factors\" holds something other than numbers",
               vae.path());
    factors.push_back(value.get<float>());
  };
  for (const json& row : list) {
    if (row.is_array()) {
      for (const json& value : row) take(value);
    } else {
      take(row);
    }
  }
  const size_t expected = static_cast<size_t>(channels) * 3 + 3;
  SLA2_CHECK(factors.size() == expected, SLA2_E_FILE_FORMAT,
             "{}: \"latent_rgb_factors\" has {} numbers, expected {} (3 per channel, then 3 offsets)", vae.path(), factors.size(),
             expected);
  return factors;
}

}  // namespace

std::shared_ptr<const Model> Model::open(const std::string& path, const config::ParamSet& params) {
  PartPaths paths = find_parts(path);
  const auto override_path = [&](const char* name, std::string& target) {
    if (params.is_set(name) && !params.text(name).empty()) target = params.text(name);
  };
  override_path("vae", paths.vae);
  override_path("text_encoder", paths.text_encoder);
  override_path("tokenizer", paths.tokenizer);

  ModelParts parts;
  parts.name = paths.name;
  parts.path = path;
  parts.tokenizer = paths.tokenizer;
  parts.defaults = paths.defaults;
  parts.dit = open_part(paths.dit, Kind::kWanDit, "DiT", "a Wan2.1 text-to-video DiT", "model");
  parts.vae = open_part(paths.vae, Kind::kWanVae, "VAE", "the Wan2.1 VAE (16 latent channels)", "vae");
  parts.text_encoder = open_part(paths.text_encoder, Kind::kUmt5, "text encoder", "a UMT5 encoder", "text_encoder");
  parts.dit_config = config::read_dit_config(*parts.dit);
  parts.vae_config = config::read_vae_config(*parts.vae);
  parts.encoder_config = text::Umt5Encoder::create(parts.text_encoder)->config();
  check_fit(parts);
  parts.preview_factors = read_preview_factors(*parts.vae, parts.vae_config.z_dim);
  parts.dit_digest = parts.dit->digest();
  parts.vae_digest = parts.vae->digest();
  parts.encoder_digest = parts.text_encoder->digest();
  return std::make_shared<OpenModel>(std::move(parts));
}

std::string file_info(const std::string& path) {
  const fs::path at = path_of(path);
  std::error_code error;
  const bool is_model = at.filename() == kModelJson || fs::exists(at / kModelJson, error);
  if (!is_model || !fs::exists(at, error)) return weights::identify(path).json;
  using nlohmann::ordered_json;
  const ordered_json described = ordered_json::parse(Model::open(path, {})->describe());
  const std::string parts =
      fmt::format("{}; {}; {}", described["dit"]["summary"].get<std::string>(), described["vae"]["summary"].get<std::string>(),
                  described["text_encoder"]["summary"].get<std::string>());
  ordered_json told{{"path", path},
                    {"kind", "model"},
                    {"summary", fmt::format("model {}: {}", described["name"].get<std::string>(), parts)},
                    {"fits", "sla2 generate -m; it is whole"}};
  told.update(described);
  told["path"] = path;
  return told.dump(-1, ' ', false, ordered_json::error_handler_t::replace);
}

std::string OpenModel::describe() const {
  const auto part = [](const weights::Checkpoint& checkpoint, const std::string& digest) {
    return nlohmann::ordered_json{{"path", checkpoint.path()}, {"summary", checkpoint.identity().summary}, {"digest", digest}};
  };
  const config::DitConfig& dit = parts_.dit_config;
  nlohmann::ordered_json root;
  root["name"] = parts_.name;
  root["path"] = parts_.path;
  root["family"] = "wan2.1";
  root["dit"] = part(*parts_.dit, parts_.dit_digest);
  root["dit"]["dim"] = dit.dim;
  root["dit"]["heads"] = dit.heads;
  root["dit"]["head_dim"] = dit.head_dim;
  root["dit"]["layers"] = dit.layers;
  root["dit"]["ffn_dim"] = dit.ffn_dim;
  root["dit"]["text_dim"] = dit.text_dim;
  root["vae"] = part(*parts_.vae, parts_.vae_digest);
  root["vae"]["z_dim"] = parts_.vae_config.z_dim;
  root["vae"]["base_dim"] = parts_.vae_config.base_dim;
  root["text_encoder"] = part(*parts_.text_encoder, parts_.encoder_digest);
  root["text_encoder"]["d_model"] = parts_.encoder_config.d_model;
  root["text_encoder"]["layers"] = parts_.encoder_config.layers;
  root["text_encoder"]["vocabulary"] = parts_.encoder_config.vocabulary;
  root["defaults"] = nlohmann::ordered_json::parse(parts_.defaults.to_json());
  return root.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

}  // namespace sla2::pipeline
