// SPDX-License-Identifier: Apache-2.0
// A run in the foreground: progress on the terminal, Ctrl-C and SIGTERM, the exit code. Shared by generate and resume.
#pragma once
#include <functional>

#include "errors.h"
#include "options.h"
#include "run_job.h"

namespace sla2::cli {

/// `prepare` may throw CliError; its words reach the user in the chosen form.
ExitCode run_in_foreground(const Verbosity& verbosity, const std::function<JobRequest()>& prepare);

}  // namespace sla2::cli
