// SPDX-License-Identifier: Apache-2.0
// How far a job is and how long it will still take. Phases are weighed by their arithmetic, so that the bar moves evenly;
// the estimate comes from the time the finished part took.
#pragma once
#include <chrono>
#include <string>

#include "pipeline/pipeline.h"
#include "pipeline/settings.h"

namespace sla2::pipeline {

class ProgressMeter {
 public:
  ProgressMeter(const ModelParts& model, const Settings& settings, std::function<void(const Progress&)> listener);
  /// `share`: finished part of the phase, 0…1.
  void report(Phase phase, int step, int steps, double share, const std::string& message = {});
  /// A line for people, at the place where the job is.
  void say(const std::string& message);
  [[nodiscard]] double elapsed() const;

 private:
  [[nodiscard]] double work_before(Phase phase) const;
  [[nodiscard]] double work_of(Phase phase) const;

  std::function<void(const Progress&)> listener_;
  std::chrono::steady_clock::time_point start_;
  double load_work_ = 0, text_work_ = 0, sample_work_ = 0, decode_work_ = 0;
  Progress last_;
  Phase timed_phase_ = Phase::kLoad;  ///< the estimate is taken from this phase's own pace
  double timed_start_seconds_ = 0, timed_start_share_ = 0;
};

/// Multiply-adds of one DiT forward and of decoding the clip: rough, for weighing phases against each other.
double forward_work(const config::DitConfig& config, const latent::Grid& grid);
double decode_work(const config::VaeConfig& config, int64_t width, int64_t height, int64_t frames);

}  // namespace sla2::pipeline
