// SPDX-License-Identifier: Apache-2.0
#include "settings.h"

#include <sla2/generate.h>

#include <algorithm>
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

namespace {

bool is_flag(const SettingsSource& source, const char* name) {
  return std::any_of(source.values.begin(), source.values.end(), [&](const auto& value) { return value.first == name; });
}

/// Repeating a clip with another pack would not be repeating it.
void check_repeated_pack(const SettingsSource& source, const std::string& pack) {
  const json report = report_of(source.from);
  if (!report.is_object() || !report.contains("pack") || !report["pack"].is_object()) return;
  const std::string before = report["pack"].value("digest", "");
  const std::string info = text_of([&](char* buffer, uint64_t capacity) {
    uint64_t needed = 0;
    require(sla2_file_info(pack.c_str(), buffer, capacity, &needed));
    return needed;
  });
  const std::string now = json::parse(info).value("digest", "");
  if (!before.empty() && now != before)
    fail(SLA2_E_MODEL_MISMATCH,
         "--from {}: it was made with a router pack of digest {}; {} has {}: it was changed. Put the old one back, or say --pack "
         "{} to "
         "use this one",
         source.from, before, pack, now.empty() ? "none" : now, pack);
}

/// Made absolute, so that a run can be resumed from elsewhere; a preset's own is looked for beside the preset too.
void locate_pack(const SettingsSource& source, Settings& settings) {
  const std::string given = param_text(settings.params.get(), "pack");
  if (given.empty()) return;
  const bool by_flag = is_flag(source, "pack");
  fs::path pack = given;
  std::error_code error;
  if (!by_flag && !source.preset.empty() && !fs::exists(pack, error)) {
    const fs::path beside = locate_preset(source.preset).parent_path() / pack;
    if (fs::exists(beside, error)) pack = beside;
  }
  pack = fs::absolute(pack).lexically_normal();
  if (!fs::exists(pack, error))
    fail(SLA2_E_FILE_NOT_FOUND, "router pack {} does not exist; check --pack, or leave it out{}", pack.string(),
         !by_flag && !source.from.empty() ? " (--pack \"\")" : "");
  require(sla2_params_set_text(settings.params.get(), "pack", pack.string().c_str()));
  if (!by_flag && !source.from.empty()) check_repeated_pack(source, pack.string());
}

/// What a pack decides is not taken from the earlier run where another pack is named.
void forget_pack(const SettingsSource& source, sla2_params* params) {
  const auto named = [](const auto& value) { return value.first == "pack" && !value.second.empty(); };
  if (source.from.empty() || std::none_of(source.values.begin(), source.values.end(), named)) return;
  for (const char* name :
       {"attention", "attention_schedule", "block_q", "block_k", "token_order", "router", "mix", "scope", "smooth_k"})
    if (param_is_set(params, name)) require(sla2_params_unset(params, name));
}

/// --sparsity where a clip or a preset says full attention: the flag is newer, and means sparse attention.
std::string apply_sparsity_flag(const SettingsSource& source, sla2_params* params) {
  const bool decided = is_flag(source, "attention") || is_flag(source, "attention_schedule") || is_flag(source, "pack");
  if (decided || !is_flag(source, "sparsity") || !param_is_set(params, "attention")) return {};
  const std::string sparsity = param_text(params, "sparsity");
  if (sparsity == "0" || param_text(params, "attention") != "full" || !param_text(params, "attention_schedule").empty())
    return {};
  require(sla2_params_set_text(params, "attention", "sla2"));
  return fmt::format("attention = sla2 instead of full, because --sparsity {} is given; --mode full has it full", sparsity);
}

}  // namespace

Settings gather_settings(const SettingsSource& source) {
  Settings settings{make_params(), "", {}, {}};
  fs::path beside;
  if (!source.from.empty()) {
    merge_earlier_run(settings.params.get(), source.from);
    settings.earlier = {source.from, report_of(source.from), !is_flag(source, "lora")};
    forget_pack(source, settings.params.get());
  }
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
  if (std::string note = apply_sparsity_flag(source, settings.params.get()); !note.empty())
    settings.notes.push_back(std::move(note));
  std::string model = param_text(settings.params.get(), "model");
  if (model.empty()) model = kShippedModel;
  settings.model = fs::absolute(locate_model(model, beside)).lexically_normal().string();
  require(sla2_params_set_text(settings.params.get(), "model", settings.model.c_str()));
  locate_pack(source, settings);
  return settings;
}

}  // namespace sla2::cli
