// SPDX-License-Identifier: Apache-2.0
#include "earlier_run.h"

#include <algorithm>

#include "clip_metadata.h"
#include "errors.h"
#include "settings.h"

namespace sla2::cli {

using nlohmann::json;

namespace {

/// object[keys[0]][keys[1]]… as text; "" where something is missing.
std::string text_at(const json& object, std::initializer_list<const char*> keys) {
  const json* at = &object;
  for (const char* const key : keys) {
    if (!at->is_object() || !at->contains(key)) return {};
    at = &(*at)[key];
  }
  return at->is_string() ? at->get<std::string>() : std::string();
}

void compare_loras(const Earlier& earlier, const json& now, std::vector<std::string>& told) {
  if (!earlier.same_loras || !earlier.report.contains("lora") || !now.contains("lora")) return;
  const json &before = earlier.report["lora"], &after = now["lora"];
  if (!before.is_array() || !after.is_array()) return;
  for (size_t i = 0; i < std::min(before.size(), after.size()); ++i) {
    const std::string was = text_at(before[i], {"digest"}), is = text_at(after[i], {"digest"});
    if (was.empty() || was == is) continue;
    told.push_back(
        fmt::format("WARNING: --from: {} is not the LoRA that the run was made with (digest {}, now {}): the clip will differ",
                    text_at(after[i], {"path"}), was, is));
  }
}

void compare_models(const Earlier& earlier, const json& now, std::vector<std::string>& told) {
  constexpr std::pair<const char*, const char*> kParts[] = {{"dit", "DiT"}, {"vae", "VAE"}, {"text_encoder", "text encoder"}};
  for (const auto& [key, role] : kParts) {
    const std::string was = text_at(earlier.report, {"model", "digests", key}), is = text_at(now, {"model", "digests", key});
    if (was.empty() || was == is) continue;
    told.push_back(fmt::format("WARNING: --from {}: it was made with a {} of digest {}; that of {} has {}: the clip will differ",
                               earlier.from, role, was, text_at(now, {"model", "path"}), is));
  }
}

/// Other instructions or other products: the same pictures to the eye, not to the bit.
void compare_machines(const Earlier& earlier, const json& now, std::vector<std::string>& told) {
  std::string changes;
  const auto add = [&](const char* what, std::initializer_list<const char*> keys) {
    const std::string was = text_at(earlier.report, keys), is = text_at(now, keys);
    if (!was.empty() && was != is) changes += fmt::format("{}{} {}, here {}", changes.empty() ? "" : "; ", what, was, is);
  };
  add("instruction set", {"machine", "isa"});
  add("DiT in", {"machine", "precision", "dit"});
  add("VAE in", {"machine", "precision", "vae"});
  if (changes.empty()) return;
  told.push_back(fmt::format("--from {}: it was made with {}: the clip will look alike and not be the same to the last bit",
                             earlier.from, changes));
}

}  // namespace

json report_of(const fs::path& path) {
  const std::optional<json> clip = read_metadata(path);
  json report = clip ? clip->value("report", json::object()) : json::parse(read_text(path, kLargestSettingsFile), nullptr, false);
  return report.is_object() ? report : json();
}

std::vector<std::string> differences(const Earlier& earlier, const std::string& report) {
  std::vector<std::string> told;
  const json now = json::parse(report, nullptr, false);
  if (!earlier.report.is_object() || !now.is_object()) return told;
  compare_models(earlier, now, told);
  compare_loras(earlier, now, told);
  compare_machines(earlier, now, told);
  return told;
}

}  // namespace sla2::cli
