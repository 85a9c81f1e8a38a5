// SPDX-License-Identifier: Apache-2.0
#include "locate.h"

#include <algorithm>
#include <cstdlib>
#include <map>

#include "errors.h"

namespace sla2::cli {

namespace {

// build/release/bin/sla2 lies three folders below the root of the source tree; one more for nested build folders.
constexpr int kLevelsUp = 4;
constexpr const char* kSchemaFile = "schema.json";

void add_if_folder(std::vector<fs::path>* folders, const fs::path& folder) {
  std::error_code error;
  if (!fs::is_directory(folder, error)) return;
  const fs::path real = fs::canonical(folder, error);
  if (!error && std::find(folders->begin(), folders->end(), real) == folders->end()) folders->push_back(real);
}

std::string joined(const std::vector<fs::path>& paths) {
  std::string text;
  for (const fs::path& path : paths) text += (text.empty() ? "" : ", ") + path.string();
  return text.empty() ? "no presets folder was found; set SLA2_PRESETS" : "looked in " + text;
}

}  // namespace

std::vector<fs::path> preset_folders() {
  std::vector<fs::path> folders;
  if (const char* variable = std::getenv(kPresetVariable); variable != nullptr) {
    const std::string list = variable;
    for (size_t begin = 0; begin <= list.size();) {
      const size_t end = std::min(list.find(':', begin), list.size());
      if (end > begin) add_if_folder(&folders, list.substr(begin, end - begin));
      begin = end + 1;
    }
  }
  std::error_code error;
  fs::path folder = fs::read_symlink("/proc/self/exe", error).parent_path();
  if (error) return folders;
  add_if_folder(&folders, folder / ".." / "share" / "sla2" / "presets");
  for (int level = 0; level < kLevelsUp && folder.has_relative_path(); ++level) {
    folder = folder.parent_path();
    if (fs::exists(folder / "presets" / kSchemaFile, error) || fs::is_directory(folder / "presets" / "models", error)) {
      add_if_folder(&folders, folder / "presets");
    }
  }
  return folders;
}

std::vector<fs::path> all_presets() {
  std::map<std::string, fs::path> by_name;
  for (const fs::path& folder : preset_folders()) {
    for (const auto& entry : fs::directory_iterator(folder)) {
      if (entry.path().extension() == ".json" && entry.path().filename() != kSchemaFile) {
        by_name.try_emplace(entry.path().stem().string(), entry.path());
      }
    }
  }
  std::vector<fs::path> presets;
  presets.reserve(by_name.size());
  for (const auto& [name, path] : by_name) presets.push_back(path);
  return presets;
}

fs::path locate_preset(const std::string& name) {
  fs::path path = name;
  if (path.extension() == ".json" || path.has_parent_path()) {
    if (!fs::exists(path))
      fail(SLA2_E_FILE_NOT_FOUND, "preset file {} does not exist; `sla2 presets list` shows the shipped ones", name);
    return path;
  }
  std::vector<std::string> names;
  for (const fs::path& preset : all_presets()) {
    if (preset.stem() == name) return preset;
    names.push_back(preset.stem().string());
  }
  const std::string near = nearest(name, names);
  fail(SLA2_E_FILE_NOT_FOUND, "no preset \"{}\"{} ({}); `sla2 presets list` shows them", name,
       near.empty() ? "" : "; did you mean \"" + near + "\"?", joined(preset_folders()));
}

fs::path locate_model(const std::string& name, const fs::path& beside) {
  std::error_code error;
  if (fs::exists(name, error)) return name;
  if (fs::path(name).is_absolute()) {
    fail(SLA2_E_FILE_NOT_FOUND, "model {} does not exist; give a folder or a DiT file with -m", name);
  }
  if (!beside.empty() && fs::exists(beside / name, error)) return beside / name;
  const std::vector<fs::path> folders = preset_folders();
  for (const fs::path& folder : folders) {
    for (const fs::path& path : {folder / "models" / name, folder / name}) {
      if (fs::exists(path, error)) return path;
    }
  }
  fail(SLA2_E_FILE_NOT_FOUND, "model {} does not exist here and does not ship ({}); give a folder or a DiT file with -m", name,
       joined(folders));
}

std::string model_name(const std::string& path) {
  std::error_code error;
  const fs::path real = fs::weakly_canonical(path, error);
  for (const fs::path& folder : preset_folders()) {
    if (!error && real.parent_path() == folder / "models") return real.filename().string();
  }
  return path;
}

}  // namespace sla2::cli
