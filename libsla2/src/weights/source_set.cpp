// SPDX-License-Identifier: Apache-2.0
#include "weights/source_set.h"

#include <algorithm>
#include <array>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <utility>

#include "weights/file_io.h"

namespace sla2::weights {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr std::array<std::string_view, 4> kModelFiles{"diffusion_pytorch_model.safetensors.index.json",
                                                      "diffusion_pytorch_model.safetensors", "model.safetensors.index.json",
                                                      "model.safetensors"};
constexpr std::array<std::string_view, 3> kParts{"transformer", "vae", "text_encoder"};
constexpr uint64_t kMaxIndexBytes = 100'000'000;
constexpr uint64_t kMaxConfigBytes = 1'000'000;

std::string read_text(const std::string& path, uint64_t limit) {
  const InputFile file(path);
  SLA2_CHECK(file.size() <= limit, SLA2_E_FILE_FORMAT, "{}: {} for a JSON text, at most {} are allowed", path,
             size_text(file.size()), size_text(limit));
  std::string text(file.size(), '\0');
  file.read(0, std::as_writable_bytes(std::span(text)));
  return text;
}

std::optional<fs::path> model_file_in(const fs::path& folder) {
  std::error_code ignored;
  for (const std::string_view name : kModelFiles) {
    if (fs::is_regular_file(folder / name, ignored)) return folder / name;
  }
  std::optional<fs::path> only;
  for (fs::directory_iterator at(folder, ignored), end; !ignored && at != end; at.increment(ignored)) {
    if (at->path().extension() != ".safetensors") continue;
    if (only) return std::nullopt;  // several: somebody has to choose
    only = at->path();
  }
  return only;
}

/// "model-00002-of-00007.safetensors" → "model.safetensors.index.json" beside it, if that exists.
std::optional<fs::path> index_of_shard(const fs::path& file) {
  constexpr std::string_view kShape = "-00000-of-00000";
  const std::string stem = file.stem().string();
  if (file.extension() != ".safetensors" || stem.size() <= kShape.size()) return std::nullopt;
  const std::string_view tail = std::string_view(stem).substr(stem.size() - kShape.size());
  for (size_t i = 0; i < kShape.size(); ++i) {
    const bool digit = tail[i] >= '0' && tail[i] <= '9';
    if (kShape[i] == '0' ? !digit : tail[i] != kShape[i]) return std::nullopt;
  }
  const fs::path index = file.parent_path() / (stem.substr(0, stem.size() - kShape.size()) + ".safetensors.index.json");
  std::error_code ignored;
  return fs::is_regular_file(index, ignored) ? std::optional(index) : std::nullopt;
}

void open_index(const fs::path& path, SourceSet& set) {
  const json index = json::parse(read_text(path.string(), kMaxIndexBytes), nullptr, false);
  SLA2_CHECK(index.is_object() && index.contains("weight_map") && index["weight_map"].is_object(), SLA2_E_FILE_FORMAT,
             "{}: expected a JSON object with weight_map, as written by save_pretrained", path.string());
  std::map<std::string, const SafetensorsFile*> shards;
  for (const auto& [name, value] : index["weight_map"].items()) {
    SLA2_CHECK(value.is_string(), SLA2_E_FILE_FORMAT, "{}: weight_map of '{}' is not a file name", path.string(), name);
    const std::string file = value.get<std::string>();
    // An index must not lead out of its folder.
    SLA2_CHECK(!file.empty() && fs::path(file).filename() == fs::path(file) && file != "." && file != "..", SLA2_E_FILE_FORMAT,
               "{}: weight_map of '{}' is not a plain file name: '{}'", path.string(), name, file);
    auto& shard = shards[file];
    if (shard == nullptr) {
      const fs::path shard_path = path.parent_path() / file;
      std::error_code ignored;
      SLA2_CHECK(fs::exists(shard_path, ignored), SLA2_E_FILE_NOT_FOUND, "{}: names {}, which is not there; download it too",
                 path.string(), shard_path.string());
      set.files.push_back(SafetensorsFile::open(shard_path.string()));
      shard = set.files.back().get();
    }
    SLA2_CHECK(shard->find(name) != nullptr, SLA2_E_FILE_FORMAT, "{}: tensor '{}' should be in {}, which lacks it", path.string(),
               name, file);
  }
}

/// Metadata "config", else config.json beside the weights; only well-formed JSON objects count.
std::string find_config(const SourceSet& set, const fs::path& folder) {
  std::string text = set.metadata("config");
  std::error_code ignored;
  if (text.empty() && fs::is_regular_file(folder / "config.json", ignored)) {
    text = read_text((folder / "config.json").string(), kMaxConfigBytes);
  }
  if (text.empty()) return "";
  const json config = json::parse(text, nullptr, false);
  if (config.is_object()) return text;
  log(SLA2_LOG_WARNING, "{}: its configuration is not a JSON object and is ignored", set.path);
  return "";
}

/// Attach the scale of `name` ("a.b.weight" ← "a.b.scale_weight" or "a.b.weight_scale").
void attach_scale(Entry& entry, const std::map<std::string_view, std::pair<const SafetensorsFile*, const TensorInfo*>>& storage) {
  constexpr std::string_view kWeight = ".weight";
  std::string_view base = entry.info->name;
  if (!base.ends_with(kWeight)) return;
  base.remove_suffix(kWeight.size());
  const auto find = [&](std::string_view ending) {
    const auto found = storage.find(fmt::format("{}{}", base, ending));
    return found == storage.end() ? nullptr : &found->second;
  };
  if (find(".weight_scale_2") != nullptr) {
    entry.unsupported = "two-level scales (nvfp4)";
    return;
  }
  const auto* scale = find(".scale_weight");
  if (scale == nullptr) scale = find(".weight_scale");
  if (scale == nullptr) return;
  entry.scale_file = scale->first;
  entry.scale = scale->second;
  const int64_t count = entry.scale->element_count();
  const int64_t rows = entry.info->shape.empty() ? 1 : entry.info->shape.front();
  if (count != 1 && count != rows) entry.unsupported = fmt::format("block scales [{}]", fmt::join(entry.scale->shape, ", "));
  if (entry.info->dtype == DType::kI8 || entry.info->dtype == DType::kU8) entry.unsupported = "scaled 8-bit integers";
}

void build_entries(SourceSet& set) {
  std::vector<std::string> names;
  std::map<std::string_view, std::pair<const SafetensorsFile*, const TensorInfo*>> storage;
  for (const auto& file : set.files) {
    for (const TensorInfo& tensor : file->tensors()) {
      names.push_back(tensor.name);
      if (is_storage_name(tensor.name)) storage[tensor.name] = {file.get(), &tensor};
    }
  }
  set.scheme = recognise(names);
  for (const auto& file : set.files) {
    for (const TensorInfo& tensor : file->tensors()) {
      const std::string canonical = canonical_name(tensor.name, set.scheme);
      if (canonical.empty()) continue;
      const auto [at, fresh] = set.entries.try_emplace(canonical, Entry{file.get(), &tensor, nullptr, nullptr, ""});
      if (!fresh) {
        const Entry& other = at->second;
        // UMT5's embedding has two names; transformers may write both.
        const bool tied = set.scheme.kind == Kind::kUmt5 && canonical == "shared.weight";
        SLA2_CHECK(tied && other.info->shape == tensor.shape, SLA2_E_FILE_FORMAT, "{}: '{}' and '{}' are both '{}'", set.path,
                   other.info->name, tensor.name, canonical);
        continue;
      }
      attach_scale(at->second, storage);
      set.scaled = set.scaled || at->second.scale != nullptr;
    }
  }
}

}  // namespace

const Entry* SourceSet::find(std::string_view canonical) const noexcept {
  const auto found = entries.find(canonical);
  return found == entries.end() ? nullptr : &found->second;
}

std::string SourceSet::metadata(const std::string& key) const {
  for (const auto& file : files) {
    const auto found = file->metadata().find(key);
    if (found != file->metadata().end()) return found->second;
  }
  return "";
}

bool same_shape(std::span<const int64_t> a, std::span<const int64_t> b) noexcept {
  size_t i = 0, j = 0;
  for (;;) {
    while (i < a.size() && a[i] == 1) ++i;
    while (j < b.size() && b[j] == 1) ++j;
    if (i == a.size() || j == b.size()) return i == a.size() && j == b.size();
    if (a[i++] != b[j++]) return false;
  }
}

std::vector<std::string> pipeline_parts(const std::string& path) {
  std::vector<std::string> parts;
  std::error_code ignored;
  if (!fs::is_directory(path, ignored)) return parts;
  for (const std::string_view part : kParts) {
    if (fs::is_directory(fs::path(path) / part, ignored) && model_file_in(fs::path(path) / part)) parts.emplace_back(part);
  }
  return parts;
}

std::string part_path(const std::string& path, Kind kind) {
  const std::string_view wanted = kind == Kind::kWanDit   ? kParts[0]
                                  : kind == Kind::kWanVae ? kParts[1]
                                  : kind == Kind::kUmt5   ? kParts[2]
                                                          : "";
  const std::vector<std::string> parts = pipeline_parts(path);
  if (std::find(parts.begin(), parts.end(), wanted) == parts.end()) return path;
  return (fs::path(path) / wanted).string();
}

SourceSet open_sources(const std::string& path) {
  SourceSet set;
  set.path = path;
  fs::path file(path);
  std::error_code ignored;
  if (fs::is_directory(file, ignored)) {
    const auto inside = model_file_in(file);
    if (!inside) {
      const std::vector<std::string> parts = pipeline_parts(path);
      SLA2_CHECK(parts.empty(), SLA2_E_FILE_FORMAT, "{}: a pipeline folder with {}; name one of these folders", path,
                 fmt::join(parts, ", "));
      fail(SLA2_E_FILE_NOT_FOUND, "{}: no model in this folder: expected one of {}, or a single .safetensors file", path,
           fmt::join(kModelFiles, ", "));
    }
    file = *inside;
  } else if (const auto index = index_of_shard(file)) {
    file = *index;
  }
  if (file.extension() == ".json") {
    open_index(file, set);
  } else {
    set.files.push_back(SafetensorsFile::open(file.string()));
  }
  set.config_json = find_config(set, file.parent_path());
  build_entries(set);
  return set;
}

}  // namespace sla2::weights
