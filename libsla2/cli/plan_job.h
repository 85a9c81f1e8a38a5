// SPDX-License-Identifier: Apache-2.0
// sla2 generate --plan: what a run would need, without running it.
#pragma once
#include "run_job.h"

namespace sla2::cli {

/// Checks the settings and the files, makes the memory plan and prints it: as text, or one JSON object. Weights are not read.
/// Throws CliError: settings that are wrong, a job that does not fit (MEMORY, with the plan in its words).
void print_plan(const JobRequest& request, bool as_json);

}  // namespace sla2::cli
