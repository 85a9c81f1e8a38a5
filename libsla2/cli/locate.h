// SPDX-License-Identifier: Apache-2.0
// Where presets and shipped models are found.
#pragma once
#include <string>
#include <vector>

#include "files.h"

namespace sla2::cli {

/// Existing preset folders: $SLA2_PRESETS (colon-separated), ../share/sla2/presets beside the binary, the source tree's presets.
std::vector<fs::path> preset_folders();
/// A path that exists, or PRESETS/NAME.json. Throws FILE_NOT_FOUND naming the nearest.
fs::path locate_preset(const std::string& name);
/// Every preset file, sorted by name; the first of equal names wins.
std::vector<fs::path> all_presets();
/// A path that exists (also relative to `beside`), or PRESETS/models/NAME. Throws FILE_NOT_FOUND with the places looked at.
fs::path locate_model(const std::string& name, const fs::path& beside);

/// What to call a located model elsewhere: the bare name for one that ships, the path for others.
std::string model_name(const std::string& path);

/// The model that ships, used when neither preset nor -m names one.
inline constexpr const char* kShippedModel = "small_world";
inline constexpr const char* kPresetVariable = "SLA2_PRESETS";

}  // namespace sla2::cli
