// SPDX-License-Identifier: Apache-2.0
// The run that --from repeats: what it was made with, and whether this one is made with the same.
#pragma once
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "files.h"

namespace sla2::cli {

/// What a clip or a report tells of its run; all empty without --from.
struct Earlier {
  std::string from;        ///< as named
  nlohmann::json report;   ///< digests, machine, …
  bool same_loras = true;  ///< --lora was not given, so the LoRAs must be those of the run
};

/// The report in a clip or a .json file; null if there is none. Throws FILE_*.
nlohmann::json report_of(const fs::path& path);

/// A sentence for each thing by which the clip will differ from the earlier one. `report`: of the job that repeats it.
std::vector<std::string> differences(const Earlier& earlier, const std::string& report);

}  // namespace sla2::cli
