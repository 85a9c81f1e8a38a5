// SPDX-License-Identifier: Apache-2.0
// The values of a run: an earlier run (--from), then a preset, then flags; later ones win. And the model's path.
#pragma once
#include <string>
#include <utility>
#include <vector>

#include "earlier_run.h"
#include "handles.h"
#include "locate.h"

namespace sla2::cli {

struct SettingsSource {
  std::string from;                                         ///< clip, report or settings JSON; "": none
  std::string preset;                                       ///< name or file; "": none
  std::vector<std::pair<std::string, std::string>> values;  ///< parameter name, text
};

struct Settings {
  Params params;  ///< "model" set to the located path
  std::string model;
  Earlier earlier;                 ///< the run that --from repeats
  std::vector<std::string> notes;  ///< decisions the user should hear of
};

/// Throws ARGUMENT, FILE_*.
Settings gather_settings(const SettingsSource& source);

/// Merge a preset file; the error names the file.
void merge_preset(sla2_params* params, const fs::path& preset);
/// Merge what a clip, a report or a settings file says.
void merge_earlier_run(sla2_params* params, const fs::path& path);

inline constexpr uint64_t kLargestSettingsFile = 16u << 20;  // bytes; a report has one number per layer and step

}  // namespace sla2::cli
