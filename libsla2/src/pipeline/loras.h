// SPDX-License-Identifier: Apache-2.0
// The parameter `lora` in a job: files opened and checked before anything is loaded, told in the report, the same on resuming.
#pragma once
#include <nlohmann/json.hpp>
#include <string>

#include "pipeline/settings.h"

namespace sla2::pipeline {

/// Fills settings.loras; layers a file has and the model lacks become a note. Throws as weights::open_lora.
void open_loras(const ModelParts& model, Settings& settings);

/// One text for the files and their strengths, whatever their paths; "" without any.
std::string lora_digest(const Settings& settings);

/// Throws MODEL_MISMATCH where a run would go on with other LoRAs than it was begun with. `before`: lora_digest of then.
void check_same_loras(const std::string& before, const Settings& settings, const std::string& checkpoint);

/// The report's "lora": a list; null without one.
nlohmann::ordered_json lora_report(const Settings& settings);

}  // namespace sla2::pipeline
