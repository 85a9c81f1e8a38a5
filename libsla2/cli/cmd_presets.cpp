// SPDX-License-Identifier: Apache-2.0
// sla2 presets: list, show, check.
#include <cstdio>
#include <nlohmann/json.hpp>

#include "commands.h"
#include "handles.h"
#include "json_events.h"
#include "locate.h"
#include "reports.h"
#include "settings.h"

namespace sla2::cli {

using nlohmann::json;

namespace {

/// Name and description of a preset that may be damaged: what is wrong stands in the description.
json describe(const fs::path& path) {
  json entry{{"name", path.stem().string()}, {"path", path.string()}, {"valid", true}};
  try {
    const json object = json::parse(read_text(path, kLargestSettingsFile));
    entry["description"] = object.is_object() ? object.value("description", "") : "";
    const Params scratch = make_params();
    merge_preset(scratch.get(), path);
  } catch (const std::exception& error) {
    entry["valid"] = false;
    entry["error"] = error.what();
  }
  return entry;
}

}  // namespace

json list_presets() {
  json all = json::array();
  for (const fs::path& path : all_presets()) all.push_back(describe(path));
  return all;
}

namespace {

ExitCode list(bool as_json) {
  const json all = list_presets();
  if (as_json) return std::puts(event_line(all).c_str()), ExitCode::kOk;
  if (all.empty()) fail(SLA2_E_FILE_NOT_FOUND, "no presets were found; set {} to their folder", kPresetVariable);
  for (const json& entry : all) {
    const std::string text = entry["valid"].get<bool>() ? entry.value("description", "") : "INVALID: " + entry.value("error", "");
    std::puts(fmt::format("{:<18} {}", entry["name"].get<std::string>(), text).c_str());
  }
  return ExitCode::kOk;
}

ExitCode show(const std::string& name) {
  std::fputs(read_text(locate_preset(name), kLargestSettingsFile).c_str(), stdout);
  return ExitCode::kOk;
}

ExitCode check(const std::vector<std::string>& files) {
  ExitCode code = ExitCode::kOk;
  for (const std::string& file : files) {
    try {
      const Params scratch = make_params();
      merge_preset(scratch.get(), locate_preset(file));
      std::puts((file + ": valid").c_str());
    } catch (const CliError& error) {
      std::fprintf(stderr, "sla2: %s\n", error.what());
      code = exit_code_of(error.status());
    }
  }
  return code;
}

}  // namespace

void add_presets(CLI::App& app, Action& action) {
  struct Options {
    std::string name;
    std::vector<std::string> files;
    bool json = false;
  };
  const auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("presets", "Settings by name: list, show, check");
  command->require_subcommand(1);
  command->footer("Examples:\n  sla2 presets list\n  sla2 presets show demo\n  sla2 presets check mine.json\n");
  CLI::App* listing = command->add_subcommand("list", "Every preset with its description");
  listing->add_flag("--json", options->json, "As JSON");
  listing->footer("Example:\n  sla2 presets list\n");
  listing->callback([options, &action] { action = [options] { return list(options->json); }; });
  CLI::App* showing = command->add_subcommand("show", "The preset's file");
  showing->add_option("name", options->name, "Preset")->required()->type_name("NAME");
  showing->footer("Example:\n  sla2 presets show demo\n");
  showing->callback([options, &action] { action = [options] { return show(options->name); }; });
  CLI::App* checking = command->add_subcommand("check", "Validate preset files");
  checking->add_option("files", options->files, "Preset files or names")->required()->type_name("FILE");
  checking->footer("Example:\n  sla2 presets check mine.json\n");
  checking->callback([options, &action] { action = [options] { return check(options->files); }; });
}

}  // namespace sla2::cli
