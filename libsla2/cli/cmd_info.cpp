// SPDX-License-Identifier: Apache-2.0
// sla2 info: what a weights file, checkpoint or clip is.
#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "clip_metadata.h"
#include "commands.h"
#include "handles.h"
#include "json_events.h"

namespace sla2::cli {

namespace {

using nlohmann::json;

constexpr int kNameWidth = 18;
constexpr size_t kLongestList = 8;     // numbers shown; of longer lists their length
constexpr size_t kLongestValue = 200;  // characters of a value in the table; --json shows all

void row(const std::string& name, const std::string& value) {
  const std::string shown = value.size() <= kLongestValue ? value : value.substr(0, kLongestValue) + " …";
  std::puts(fmt::format("  {:<{}} {}", name, kNameWidth, shown).c_str());
}

std::string value_text(const json& value) {
  if (value.is_string()) return value.get<std::string>();
  if (value.is_number_float()) return fmt::format("{:g}", value.get<double>());
  return value.dump(-1, ' ', false, json::error_handler_t::replace);
}

/// "name value, name value".
std::string pairs(const json& object) {
  std::string text;
  for (const auto& [name, inner] : object.items()) text += (text.empty() ? "" : ", ") + name + " " + value_text(inner);
  return text;
}

/// Flat values first; objects one level down; long lists as their length.
void print_object(const json& object) {
  for (const auto& [key, value] : object.items()) {
    if (key == "summary" || key == "path") continue;
    if (value.is_object()) {
      const std::string text = pairs(value);
      if (!text.empty()) row(key, text);
    } else if (value.is_array()) {
      const bool short_list =
          value.size() <= kLongestList && std::all_of(value.begin(), value.end(), [](const json& v) { return v.is_number(); });
      std::string text;
      for (const json& entry : value) text += (text.empty() ? "" : ", ") + value_text(entry);
      row(key, short_list ? text : fmt::format("{} entries", value.size()));
    } else if (!value.is_null() && !value_text(value).empty()) {
      row(key, value_text(value));
    }
  }
}

void print_clip(const std::string& path, const json& object) {
  std::puts(fmt::format("{}: clip made by sla2 {}, {}", path, object.value("library", "?"), media_summary(path)).c_str());
  const json& settings = object["settings"];
  for_each_param([&](const sla2_param_info& info) {
    if (settings.contains(info.name)) row(info.name, value_text(settings[info.name]));
  });
  const json report = object.value("report", json::object());
  for (const char* key : {"rng", "machine", "attention"}) {
    if (!report.contains(key) || report[key].is_null()) continue;
    json shown = report[key];
    if (shown.is_object() && shown.contains("precision")) shown["precision"] = pairs(shown["precision"]);
    row(key, shown.is_object() ? pairs(shown) : value_text(shown));
  }
  std::puts(("Again: sla2 generate --from " + path + " -o again.mp4").c_str());
}

ExitCode info(const std::string& path, bool as_json) {
  if (const std::optional<json> clip = read_metadata(path)) {
    if (as_json)
      std::puts(event_line(*clip).c_str());
    else
      print_clip(path, *clip);
    return ExitCode::kOk;
  }
  if (const std::string media = media_summary(path); !media.empty()) {
    if (as_json)
      std::puts(event_line({{"path", path}, {"kind", "clip"}, {"summary", media}}).c_str());
    else
      std::puts(fmt::format("{}: {}; no settings of sla2 in it", path, media).c_str());
    return ExitCode::kOk;
  }
  const std::string text = text_of([&](char* buffer, uint64_t capacity) {
    uint64_t needed = 0;
    require(sla2_file_info(path.c_str(), buffer, capacity, &needed));
    return needed;
  });
  if (as_json) {
    std::puts(text.c_str());
    return ExitCode::kOk;
  }
  const json object = json::parse(text);
  std::puts(fmt::format("{}: {}", path, object.value("summary", "")).c_str());
  print_object(object);
  return ExitCode::kOk;
}

}  // namespace

void add_info(CLI::App& app, Action& action) {
  struct Options {
    std::string path;
    bool json = false;
  };
  const auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("info", "Say what a file is: weights, router pack, checkpoint, latent, clip");
  command->add_option("file", options->path, "File or model folder")->required()->type_name("FILE");
  command->add_flag("--json", options->json, "As JSON");
  command->footer(
      "Examples:\n  sla2 info wan2.1_t2v_1.3B.safetensors\n  sla2 info balloon.mp4      the settings it was made with\n");
  command->callback([options, &action] { action = [options] { return info(options->path, options->json); }; });
}

}  // namespace sla2::cli
