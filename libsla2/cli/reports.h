// SPDX-License-Identifier: Apache-2.0
// What commands print and the worker answers alike.
#pragma once
#include <nlohmann/json.hpp>

namespace sla2::cli {

/// [{"name", "path", "description", "valid", "error"?}]
nlohmann::json list_presets();
/// The machine, libraries, encoders and what each enables, presets, model, temporary folder.
nlohmann::json doctor_report();
/// The parameter table: [{"name", "type", "group", "help", "unit", "choices", "default", "minimum", "maximum", "step",
/// "advanced"}]
nlohmann::json param_table();

}  // namespace sla2::cli
