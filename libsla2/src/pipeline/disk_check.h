// SPDX-License-Identifier: Apache-2.0
// Room on the disks that checkpoints and latents go to, before anything heavy is loaded.
#pragma once
#include <cstdint>

#include "pipeline/model.h"
#include "pipeline/settings.h"

namespace sla2::pipeline {

/// `tokens`: of both prompts. Throws FILE_WRITE with what is needed, what is free, and the remedy. A disk that does not tell
/// passes.
void check_disks(const ModelParts& model, const Settings& settings, int64_t tokens);

}  // namespace sla2::pipeline
