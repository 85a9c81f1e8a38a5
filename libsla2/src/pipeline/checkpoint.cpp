// SPDX-License-Identifier: Apache-2.0
// Checkpoints and saved latents: safetensors files any tool can open. Tensors are fp32 as they are in memory, so a resumed
// run continues with the same bits.
#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "pipeline/loras.h"
#include "pipeline/report.h"
#include "pipeline/state.h"

namespace sla2::pipeline {

namespace {

using nlohmann::json;

constexpr const char* kFormat = "sla2.checkpoint";
constexpr const char* kLatentFormat = "sla2.latent";
constexpr int kCheckpointVersion = 1;
constexpr const char* kSolverPrefix = "solver.";
constexpr int kMaxSavedSteps = 1000;

weights::OutputTensor tensor_of(std::string name, const std::vector<float>& values, std::vector<int64_t> shape) {
  return {std::move(name), DType::kF32, std::move(shape), values.data()};
}

std::vector<int64_t> shape_of(const latent::Latent& x) { return {x.channels, x.frames, x.height, x.width}; }

json list_of(const std::vector<float>& values) {
  json list = json::array();
  for (const float value : values) list.push_back(static_cast<double>(value));  // fp32 -> fp64 -> text -> fp32 is exact
  return list;
}

std::map<std::string, std::string> common_metadata(const char* format, const ModelParts& model, const Settings& settings) {
  return {{"format", format},
          {"version", std::to_string(kCheckpointVersion)},
          {"library", fmt::format("{}.{}.{}", SLA2_VERSION_MAJOR, SLA2_VERSION_MINOR, SLA2_VERSION_PATCH)},
          {"params", settings.values.to_json()},
          {"prompt_cleaned", settings.prompt},
          {"sigmas", list_of(settings.schedule.sigmas).dump()},
          {"machine", machine_facts(settings).dump(-1, ' ', false, json::error_handler_t::replace)},
          {"digests", json{{"dit", model.dit_digest},
                           {"vae", model.vae_digest},
                           {"text_encoder", model.encoder_digest},
                           {"lora", lora_digest(settings)},
                           {"pack", settings.attention.pack == nullptr ? std::string() : settings.attention.pack->digest}}
                          .dump()}};
}

/// Reads typed things out of a checkpoint's metadata and tensors, naming the file when something is off.
class Reader {
 public:
  explicit Reader(const std::string& path) : file_(open(path)) {}

  [[nodiscard]] const std::string& text(const char* key) const {
    const auto found = file_->metadata().find(key);
    SLA2_CHECK(found != file_->metadata().end(), SLA2_E_FILE_FORMAT, "{}: not a complete checkpoint: \"{}\" is missing",
               file_->path(), key);
    return found->second;
  }
  [[nodiscard]] json object(const char* key) const {
    json value = json::parse(text(key), nullptr, false);
    SLA2_CHECK(!value.is_discarded(), SLA2_E_FILE_FORMAT, "{}: checkpoint entry \"{}\" is damaged", file_->path(), key);
    return value;
  }
  [[nodiscard]] int integer(const char* key, int lowest, int highest) const {
    const json value = object(key);
    SLA2_CHECK(value.is_number_integer() && value >= lowest && value <= highest, SLA2_E_FILE_FORMAT,
               "{}: checkpoint entry \"{}\" is {}, expected {} to {}", file_->path(), key, value.dump(), lowest, highest);
    return value.get<int>();
  }
  [[nodiscard]] std::vector<float> values(const weights::TensorInfo& tensor) const {
    SLA2_CHECK(tensor.dtype == DType::kF32, SLA2_E_FILE_FORMAT, "{}: checkpoint tensor \"{}\" is not fp32", file_->path(),
               tensor.name);
    std::vector<float> result(static_cast<size_t>(tensor.element_count()));
    file_->read_bytes(tensor, 0, std::as_writable_bytes(std::span(result)));
    return result;
  }
  [[nodiscard]] const weights::TensorInfo& tensor(const char* name, size_t rank) const {
    const weights::TensorInfo* info = file_->find(name);
    SLA2_CHECK(info != nullptr && info->shape.size() == rank, SLA2_E_FILE_FORMAT,
               "{}: not a complete checkpoint: tensor \"{}\" of rank {} is missing", file_->path(), name, rank);
    return *info;
  }
  [[nodiscard]] text::Embedding embedding(const char* name) const {
    const weights::TensorInfo& info = tensor(name, 2);
    return {info.shape[0], info.shape[1], values(info)};
  }
  [[nodiscard]] const weights::SafetensorsFile& file() const { return *file_; }

 private:
  static std::shared_ptr<const weights::SafetensorsFile> open(const std::string& path) {
    try {
      return weights::SafetensorsFile::open(path);
    } catch (const Error& error) {
      if (error.status() != SLA2_E_FILE_FORMAT) throw;
      fail(SLA2_E_FILE_FORMAT,
           "{}. It is no checkpoint, or a damaged one: a stopped run leaves its checkpoint in OUT.sla2ckpt; a finished clip is "
           "repeated with `sla2 generate --from CLIP`",
           error.what());
    }
  }
  std::shared_ptr<const weights::SafetensorsFile> file_;
};

std::string json_text(const json& object, const char* key) {
  return object.is_object() && object.contains(key) && object[key].is_string() ? object[key].get<std::string>() : std::string();
}

void check_kind(const Reader& reader, const std::string& path) {
  const auto& metadata = reader.file().metadata();
  const auto format = metadata.find("format");
  SLA2_CHECK(format != metadata.end() && format->second == kFormat, SLA2_E_FILE_FORMAT,
             "{}: not a checkpoint of this program (its format is \"{}\"); `sla2 info` says what it is", path,
             format == metadata.end() ? std::string() : format->second);
  const json version = reader.object("version");
  SLA2_CHECK(version.is_number_integer() && version >= 1, SLA2_E_FILE_FORMAT, "{}: checkpoint version {} is damaged", path,
             version.dump());
  SLA2_CHECK(version <= kCheckpointVersion, SLA2_E_VERSION,
             "{}: checkpoint version {} is newer than this library knows ({}); use a newer one", path, version.dump(),
             kCheckpointVersion);
}

config::ParamSet read_params(const Reader& reader, const std::string& path) {
  config::ParamSet values;
  try {
    values.merge_json(reader.text("params"), path + ", params");
  } catch (const Error& error) {
    fail(SLA2_E_FILE_FORMAT, "{}", error.what());  // the caller did nothing wrong, the file did
  }
  return values;
}

/// What checkpoints of before do not have; used for words alone, never for the frames.
void read_later_entries(const Reader& reader, SavedJob& saved) {
  const auto& metadata = reader.file().metadata();
  if (const auto machine = metadata.find("machine"); machine != metadata.end()) saved.machine = machine->second;
  if (!metadata.contains("attention")) return;
  const json totals = reader.object("attention");
  const auto number = [&](const char* key) {
    return totals.is_object() && totals.contains(key) && totals[key].is_number() ? totals[key].get<double>() : 0.0;
  };
  constexpr double kMostForwards = 1e12;
  AttentionTotals& attention = saved.state.attention;
  attention.sparsity_sum = std::clamp(number("sparsity_sum"), -kMostForwards, kMostForwards);
  attention.forwards = static_cast<int64_t>(std::clamp(number("forwards"), 0.0, kMostForwards));
  attention.sparse_forwards = static_cast<int64_t>(std::clamp(number("sparse_forwards"), 0.0, kMostForwards));
}

}  // namespace

void write_checkpoint(const std::string& path, const ModelParts& model, const Settings& settings, const JobState& state) {
  auto metadata = common_metadata(kFormat, model, settings);
  metadata["step"] = std::to_string(state.step);
  metadata["noise_state"] = state.noise_state;
  metadata["encoded"] = state.encoded ? "1" : "0";
  metadata["prompt_tokens"] = std::to_string(state.prompt_tokens);
  metadata["negative_tokens"] = std::to_string(state.negative_tokens);
  metadata["use_fp32"] = state.use_fp32 ? "1" : "0";
  metadata["notes"] = json(state.notes).dump();
  metadata["attention"] = json{{"sparsity_sum", state.attention.sparsity_sum},
                               {"forwards", state.attention.forwards},
                               {"sparse_forwards", state.attention.sparse_forwards}}
                              .dump();

  std::vector<weights::OutputTensor> tensors;
  tensors.push_back(tensor_of("latent", state.x.values, shape_of(state.x)));
  for (const sampler::StateTensor& entry : state.solver) {
    tensors.push_back(tensor_of(kSolverPrefix + entry.name, entry.values, {static_cast<int64_t>(entry.values.size())}));
  }
  if (state.encoded) {
    tensors.push_back(tensor_of("prompt.positive", state.positive.rows, {state.positive.tokens, state.positive.width}));
    if (state.negative.tokens > 0) {
      tensors.push_back(tensor_of("prompt.negative", state.negative.rows, {state.negative.tokens, state.negative.width}));
    }
  }
  weights::write_safetensors(path, tensors, metadata);
}

SavedJob read_checkpoint(const std::string& path) {
  const Reader reader(path);
  check_kind(reader, path);
  SavedJob saved;
  saved.values = read_params(reader, path);
  const json sigmas = reader.object("sigmas");
  SLA2_CHECK(sigmas.is_array() && sigmas.size() <= kMaxSavedSteps + 1, SLA2_E_FILE_FORMAT,
             "{}: checkpoint entry \"sigmas\" is damaged", path);
  for (const json& sigma : sigmas) {
    SLA2_CHECK(sigma.is_number(), SLA2_E_FILE_FORMAT, "{}: checkpoint entry \"sigmas\" is damaged", path);
    saved.sigmas.push_back(sigma.get<float>());
  }
  const json digests = reader.object("digests");
  saved.dit_digest = json_text(digests, "dit");
  saved.vae_digest = json_text(digests, "vae");
  saved.encoder_digest = json_text(digests, "text_encoder");
  saved.lora_digest = json_text(digests, "lora");
  saved.pack_digest = json_text(digests, "pack");  // absent in checkpoints of before there were packs

  JobState& state = saved.state;
  state.step = reader.integer("step", 0, kMaxSavedSteps);
  state.noise_state = reader.text("noise_state");
  state.encoded = reader.integer("encoded", 0, 1) == 1;
  constexpr int kMaxTokens = 1 << 20;
  state.prompt_tokens = reader.integer("prompt_tokens", 0, kMaxTokens);
  state.negative_tokens = reader.integer("negative_tokens", 0, kMaxTokens);
  state.use_fp32 = reader.integer("use_fp32", 0, 1) == 1;
  for (const json& note : reader.object("notes")) {
    if (note.is_string()) state.notes.push_back(note.get<std::string>());
  }
  read_later_entries(reader, saved);
  const weights::TensorInfo& latent = reader.tensor("latent", 4);
  state.x = {latent.shape[0], latent.shape[1], latent.shape[2], latent.shape[3], reader.values(latent)};
  const std::string_view prefix = kSolverPrefix;
  for (const weights::TensorInfo& tensor : reader.file().tensors()) {
    if (std::string_view(tensor.name).starts_with(prefix))
      state.solver.push_back({tensor.name.substr(prefix.size()), reader.values(tensor)});
  }
  if (state.encoded) {
    state.positive = reader.embedding("prompt.positive");
    if (reader.file().find("prompt.negative") != nullptr) state.negative = reader.embedding("prompt.negative");
  }
  return saved;
}

config::ParamSet checkpoint_params(const std::string& path) {
  const Reader reader(path);
  check_kind(reader, path);
  return read_params(reader, path);
}

void write_latent(const std::string& path, const ModelParts& model, const Settings& settings, const latent::Latent& x) {
  const std::vector<weights::OutputTensor> tensors{tensor_of("latent", x.values, shape_of(x))};
  weights::write_safetensors(path, tensors, common_metadata(kLatentFormat, model, settings));
}

}  // namespace sla2::pipeline
