// SPDX-License-Identifier: Apache-2.0
// From what was asked to a run: settings gathered, model located, outputs and checkpoint decided. For commands and worker alike.
#pragma once
#include <string>

#include "run_job.h"
#include "settings.h"

namespace sla2::cli {

struct OutputChoice {
  OutputPlan plan;
  bool keep_checkpoint = false, no_checkpoint = false;
  bool no_embedding_cache = false;
  bool only_plan = false;  ///< nothing is written, so nothing need be named
};

JobRequest prepare_generate(const SettingsSource& source, const OutputChoice& output);

struct ResumeSource {
  std::string checkpoint;
  std::string model, pack, lora, threads, vae_tile, vae_precision;  ///< "" for the saved one
};
JobRequest prepare_resume(const ResumeSource& source, const OutputChoice& output);

}  // namespace sla2::cli
