// SPDX-License-Identifier: Apache-2.0
// One job's belongings, shared by the files that make up its journey. Only the job's thread touches them while it runs,
// except the stop flag, the checkpoint flag and, under its lock, the record.
#pragma once
#include <atomic>
#include <memory>
#include <mutex>
#include <vector>

#include "pipeline/model.h"
#include "pipeline/preflight.h"
#include "pipeline/progress.h"
#include "pipeline/report.h"
#include "pipeline/settings.h"
#include "pipeline/state.h"

namespace sla2::pipeline {

struct JobContext {
  std::shared_ptr<const OpenModel> model;
  Settings settings;
  MemoryPlanSummary plan;
  Rung rung = Rung::kCpu;  ///< where the DiT is now
  Callbacks callbacks;
  std::vector<int32_t> ids, negative_ids;  ///< of the cleaned prompts
  JobState state;

  CancelToken cancel;
  std::atomic<bool> checkpoint_wanted{false};

  /// Change the record while others may read it.
  template <typename Change>
  void note(Change&& change) {
    const std::lock_guard lock(record_mutex);
    change(record);
  }
  mutable std::mutex record_mutex;
  RunRecord record;

  [[nodiscard]] const ModelParts& parts() const noexcept { return model->parts(); }
  /// Write the checkpoint if the user named a file for it.
  void save_checkpoint() const {
    if (!settings.checkpoint.empty()) write_checkpoint(settings.checkpoint, parts(), settings, state);
  }
  /// Tell the user of a decision that changes the result, and keep it for the report and for checkpoints.
  void fall_back(ProgressMeter& meter, const std::string& what) {
    state.notes.push_back(what);
    note([&](RunRecord& r) { r.fallbacks.push_back(what); });
    meter.say(what);
  }
};

/// The journey: prompt -> embeddings -> latent -> frames. Throws; on CANCELLED the checkpoint has been written.
void generate(JobContext& job);

/// Fill job.state.positive and .negative from the text encoder or the cache.
void encode_prompts(JobContext& job, ProgressMeter& meter);

/// Denoise job.state.x from job.state.step to the end of the schedule.
void sample(JobContext& job, ProgressMeter& meter);

/// Frames of job.state.x to the callbacks.
void decode(JobContext& job, ProgressMeter& meter);

}  // namespace sla2::pipeline
