// SPDX-License-Identifier: Apache-2.0
#include "session.h"

#include <new>

#include "progress.h"
#include "signals.h"

namespace sla2::cli {

ExitCode run_in_foreground(const Verbosity& verbosity, const ForegroundWork& work) {
  Reporter reporter(verbosity);
  CancelPoint cancel;
  ModelCache models;
  std::string checkpoint;
  const SignalWatcher watcher([&](int) {
    reporter.on_note("stopping after the current block; press Ctrl-C again to stop at once");
    cancel.cancel();
  });
  try {
    reporter.done(work(reporter, cancel, models, checkpoint));
    return ExitCode::kOk;
  } catch (const CliError& error) {
    reporter.error(error.status(), error.what(), resume_command(checkpoint));
    if (error.status() == SLA2_E_CANCELLED && SignalWatcher::received() != 0) {
      return static_cast<ExitCode>(kSignalExit + SignalWatcher::received());
    }
    return exit_code_of(error.status());
  } catch (const std::bad_alloc&) {
    reporter.error(SLA2_E_MEMORY, "out of memory; close other programs or make the clip smaller", resume_command(checkpoint));
    return ExitCode::kMemory;
  }
}

ExitCode run_in_foreground(const Verbosity& verbosity, const std::function<JobRequest()>& prepare) {
  return run_in_foreground(
      verbosity, ForegroundWork([&](JobObserver& observer, CancelPoint& cancel, ModelCache& models, std::string& checkpoint) {
        const JobRequest request = prepare();
        checkpoint = request.checkpoint;
        return run_job(request, observer, cancel, models);
      }));
}

}  // namespace sla2::cli
