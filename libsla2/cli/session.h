// SPDX-License-Identifier: Apache-2.0
// A run in the foreground: progress on the terminal, Ctrl-C and SIGTERM, the exit code. Shared by generate and resume.
#pragma once
#include <functional>

#include "errors.h"
#include "options.h"
#include "run_job.h"

namespace sla2::cli {

/// May throw CliError; its words reach the user in the chosen form. `checkpoint`: set before there is something to go on from.
using ForegroundWork = std::function<JobResult(JobObserver&, CancelPoint&, ModelCache&, std::string& checkpoint)>;
ExitCode run_in_foreground(const Verbosity& verbosity, const ForegroundWork& work);

/// One job. `prepare` may throw CliError.
ExitCode run_in_foreground(const Verbosity& verbosity, const std::function<JobRequest()>& prepare);

}  // namespace sla2::cli
