// SPDX-License-Identifier: Apache-2.0
#include "pipeline/progress.h"

#include <algorithm>

namespace sla2::pipeline {

namespace {

// Wan-VAE decode of 81 frames at 832x480 costs 275 TFLOP (counted from its convolutions), which is this per output pixel
// at base width 96; cost goes with the square of the width.
constexpr double kDecodeFlopsPerPixel = 8.5e6;
constexpr double kDecodeBaseDim = 96;
// Loading and text are small beside the rest; as parts of all other work.
constexpr double kLoadShare = 0.02, kTextShare = 0.03;

}  // namespace

double forward_work(const config::DitConfig& config, const latent::Grid& grid) {
  const auto tokens = static_cast<double>(grid.tokens()), dim = static_cast<double>(config.dim);
  constexpr double kSelfProducts = 4, kCrossProducts = 2, kFfnProducts = 2,
                   kFlops = 2;  // q k v o; q o; up down; multiply and add
  const double products = (kSelfProducts + kCrossProducts) * dim * dim + kFfnProducts * dim * static_cast<double>(config.ffn_dim);
  constexpr double kAttentionProducts = 2;  // QKᵀ and PV
  return static_cast<double>(config.layers) * kFlops * tokens * (products + kAttentionProducts * tokens * dim);
}

double decode_work(const config::VaeConfig& config, int64_t width, int64_t height, int64_t frames) {
  const double width_ratio = static_cast<double>(config.decoder_base_dim) / kDecodeBaseDim;
  return kDecodeFlopsPerPixel * width_ratio * width_ratio * static_cast<double>(width * height * frames);
}

ProgressMeter::ProgressMeter(const ModelParts& model, const Settings& settings, std::function<void(const Progress&)> listener)
    : listener_(std::move(listener)), start_(std::chrono::steady_clock::now()) {
  sample_work_ = forward_work(model.dit_config, settings.grid) * settings.steps() * (settings.guided() ? 2 : 1);
  decode_work_ = decode_work(model.vae_config, settings.width, settings.height, settings.frames);
  const double main_work = sample_work_ + decode_work_;
  load_work_ = main_work * kLoadShare;
  text_work_ = main_work * kTextShare;
}

double ProgressMeter::elapsed() const { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count(); }

double ProgressMeter::work_of(Phase phase) const {
  switch (phase) {
    case Phase::kText: return text_work_;
    case Phase::kLoad: return load_work_;
    case Phase::kSample: return sample_work_;
    case Phase::kDecode: return decode_work_;
    case Phase::kDone: return 0;
  }
  return 0;
}

double ProgressMeter::work_before(Phase phase) const {
  double sum = 0;
  for (const Phase earlier : {Phase::kText, Phase::kLoad, Phase::kSample, Phase::kDecode}) {  // the order of a job
    if (earlier == phase) return sum;
    sum += work_of(earlier);
  }
  return sum;
}

void ProgressMeter::report(Phase phase, int step, int steps, double share, const std::string& message) {
  const double now = elapsed();
  if (phase != timed_phase_) {
    timed_phase_ = phase;
    timed_start_seconds_ = now;
    timed_start_share_ = share;
  }
  const double total = work_of(Phase::kText) + work_of(Phase::kLoad) + work_of(Phase::kSample) + work_of(Phase::kDecode);
  const double done = work_before(phase) + work_of(phase) * share;
  last_.phase = phase;
  last_.step = step;
  last_.steps = steps;
  last_.elapsed = now;
  last_.fraction = phase == Phase::kDone || total <= 0 ? 1.0 : std::clamp(done / total, last_.fraction, 1.0);
  const double advanced = (share - timed_start_share_) * work_of(phase);
  const bool telling = (phase == Phase::kSample || phase == Phase::kDecode) && advanced > 0;  // loading says nothing of sampling
  if (telling) last_.left = (total - done) * (now - timed_start_seconds_) / advanced;
  if (phase == Phase::kDone) last_.left = 0;
  last_.message = message;
  if (listener_) listener_(last_);
}

void ProgressMeter::say(const std::string& message) {
  log(SLA2_LOG_INFO, "{}", message);
  last_.elapsed = elapsed();
  last_.message = message;
  if (listener_) listener_(last_);
  last_.message.clear();
}

}  // namespace sla2::pipeline
