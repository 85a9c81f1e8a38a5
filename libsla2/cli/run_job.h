// SPDX-License-Identifier: Apache-2.0
// One run from settings to written files; shared by generate, resume, bench and the worker.
#pragma once
#include <mutex>
#include <string>
#include <vector>

#include "earlier_run.h"
#include "handles.h"
#include "outputs.h"

namespace sla2::cli {

struct JobRequest {
  Params params;      ///< every value of the run
  Params changes;     ///< resume only: the values that differ from the checkpoint's; may be null
  std::string model;  ///< located path
  OutputPlan plan;
  std::string checkpoint;  ///< file that keeps the state; "": none
  bool keep_checkpoint = false;
  bool resume = false;             ///< go on from `checkpoint`
  Earlier earlier;                 ///< the run that is repeated
  std::vector<std::string> notes;  ///< told first
  FrameSink* tap = nullptr;        ///< sees every frame before the outputs do; may be null
};

struct JobResult {
  std::vector<WrittenFile> written;
  std::string report;       ///< JSON
  std::string report_path;  ///< "" if none was asked for
  int frames = 0;
  double seconds = 0;
};

/// Told what happens; on_progress and on_preview come from the job's thread.
class JobObserver {
 public:
  virtual ~JobObserver() = default;
  virtual void on_progress(const sla2_progress& progress) = 0;
  virtual void on_preview(const sla2_frames& frames, int32_t step) = 0;
  virtual void on_note(const std::string& text) = 0;
};

/// Where a cancel finds the running job, from any thread, before, while and after it exists.
class CancelPoint {
 public:
  void cancel();
  void attach(sla2_job* job);
  void detach();
  [[nodiscard]] bool cancelled() const;

 private:
  mutable std::mutex mutex_;
  sla2_job* job_ = nullptr;
  bool cancelled_ = false;
};

/// Keeps the last opened model, so that a worker's second job does not read the headers again.
class ModelCache {
 public:
  sla2_model* open(const std::string& path, const sla2_params* params);

 private:
  std::string key_;
  Model model_;
};

/// Runs to the end. Throws CliError; afterwards resume_command() tells whether there is something to go on from.
JobResult run_job(const JobRequest& request, JobObserver& observer, CancelPoint& cancel, ModelCache& models);

/// OUT.sla2ckpt for the first output.
std::string default_checkpoint(const OutputPlan& plan);
/// "sla2 resume CHECKPOINT" if that checkpoint exists, else "".
std::string resume_command(const std::string& checkpoint);
/// A word as a POSIX shell takes it.
std::string shell_quoted(const std::string& word);

}  // namespace sla2::cli
