// SPDX-License-Identifier: Apache-2.0
#include "settings.h"

#include <nlohmann/json.hpp>

#include "clip_metadata.h"
#include "files.h"

namespace sla2::cli {

using nlohmann::json;

void merge_preset(sla2_params* params, const fs::path& preset) {
  const std::string text = read_text(preset, kLargestSettingsFile);
  const sla2_status status = sla2_params_merge_json(params, text.c_str());
  if (status != SLA2_OK) fail(status, "preset {}: {}", preset.string(), sla2_last_error());
}

void merge_earlier_run(sla2_params* params, const fs::path& path) {
  std::optional<json> object = read_metadata(path);
  if (!object && path.extension() == ".json") {
    json parsed = json::parse(read_text(path, kLargestSettingsFile), nullptr, false);
    if (!parsed.is_object())
      fail(SLA2_E_FILE_FORMAT, "{} is not a JSON object; --from takes a clip or a report made by sla2", path.string());
    object = std::move(parsed);
  }
  if (!object) {
    fail(SLA2_E_FILE_FORMAT,
         "{} holds no settings of sla2: --from takes a clip (.mp4 .webm .gif .png) or a report (.json) made by it",
         path.string());
  }
  const json settings = known_settings(object->contains("settings") ? (*object)["settings"] : *object);
  if (settings.empty()) fail(SLA2_E_FILE_FORMAT, "{} holds no settings of sla2", path.string());
  const sla2_status status = sla2_params_merge_json(params, settings.dump().c_str());
  if (status != SLA2_OK) fail(status, "{}: {}", path.string(), sla2_last_error());
}

Settings gather_settings(const SettingsSource& source) {
  Settings settings{make_params(), ""};
  fs::path beside;
  if (!source.from.empty()) merge_earlier_run(settings.params.get(), source.from);
  if (!source.preset.empty()) {
    const fs::path preset = locate_preset(source.preset);
    const std::string before = param_text(settings.params.get(), "model");
    merge_preset(settings.params.get(), preset);
    if (param_text(settings.params.get(), "model") != before) beside = preset.parent_path();
  }
  for (const auto& [name, value] : source.values) {
    require(sla2_params_set_text(settings.params.get(), name.c_str(), value.c_str()));
    if (name == "model") beside.clear();  // a path on the command line is relative to the working folder
  }
  std::string model = param_text(settings.params.get(), "model");
  if (model.empty()) model = kShippedModel;
  settings.model = fs::absolute(locate_model(model, beside)).lexically_normal().string();
  require(sla2_params_set_text(settings.params.get(), "model", settings.model.c_str()));
  return settings;
}

}  // namespace sla2::cli
