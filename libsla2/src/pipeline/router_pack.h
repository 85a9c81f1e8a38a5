// SPDX-License-Identifier: Apache-2.0
// A router pack and a job: does it fit the model and what the user asked, and what it decides (docs/router_pack.md).
#pragma once
#include <nlohmann/json.hpp>

#include "pipeline/model.h"
#include "pipeline/settings.h"

namespace sla2::pipeline {

/// Read the pack that settings.values name, or SLA v1 projections among the weights where attention sla1 is asked for; check it
/// and write what it decides into settings.values and settings.attention. `params`: what the user set.
/// Throws FILE_* | VERSION | UNSUPPORTED (the file), MODEL_MISMATCH (another model or grid), ARGUMENT (a setting contradicts it).
void apply_pack(const ModelParts& model, const config::ParamSet& params, Settings& settings);

/// A note for every κ of the run that the pack was not made for. After attention is resolved.
void tell_kappas(const ModelParts& model, Settings& settings);

/// The report's "pack"; null without one.
nlohmann::ordered_json pack_report(const ModelParts& model, const Settings& settings);

}  // namespace sla2::pipeline
