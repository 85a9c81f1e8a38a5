// SPDX-License-Identifier: Apache-2.0
// The journey of a job. Phases free what they loaded before the next one starts: the text encoder goes before the DiT
// comes, the DiT before the VAE.
#include <chrono>
#include <new>
#include <utility>

#include "pipeline/context.h"

namespace sla2::pipeline {

namespace {

/// Seconds from here to now.
class Stopwatch {
 public:
  [[nodiscard]] double seconds() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

/// An allocation that fails in `work` becomes an error that says where, and what helps.
template <typename Work>
void with_remedy(const char* where, const char* remedy, Work&& work) {
  try {
    std::forward<Work>(work)();
  } catch (const std::bad_alloc&) {
    fail(SLA2_E_MEMORY, "out of memory {}: an allocation failed. Close other programs and go on, or start anew with {}", where,
         remedy);
  }
}

void tell_dropped(ProgressMeter& meter, const char* which, int dropped, size_t kept) {
  if (dropped == 0) return;
  meter.say(fmt::format("the {} is too long: {} tokens are used, {} were dropped from its end", which, kept, dropped));
}

}  // namespace

void generate(JobContext& job) {
  ProgressMeter meter(job.parts(), job.settings, job.callbacks.on_progress);
  try {
    for (const std::string& note : job.settings.notes) job.fall_back(meter, note);
    for (const std::string& note : job.plan.notes) job.fall_back(meter, note);
    tell_dropped(meter, "prompt", job.record.prompt_dropped, job.ids.size());
    if (job.settings.guided()) tell_dropped(meter, "negative prompt", job.record.negative_dropped, job.negative_ids.size());
    if (job.settings.checkpoint_every > 0 && !job.state.encoded) job.save_checkpoint();
    with_remedy("while encoding the prompt", "a shorter prompt", [&] { encode_prompts(job, meter); });
    if (job.settings.checkpoint_every > 0 && job.state.step == 0) job.save_checkpoint();
    const Stopwatch watch;
    with_remedy("while sampling", "fewer frames, a smaller width and height, linear_bits = 8, or a smaller model",
                [&] { sample(job, meter); });
    job.note([&](RunRecord& r) { r.sample_seconds = watch.seconds() - r.load_seconds; });
    if (!job.settings.latent_out.empty()) write_latent(job.settings.latent_out, job.parts(), job.settings, job.state.x);
    job.save_checkpoint();
    with_remedy("while decoding", "a smaller width and height", [&] { decode(job, meter); });
  } catch (const Error& error) {
    job.note([&](RunRecord& r) { r.total_seconds = meter.elapsed(); });
    if (error.status() == SLA2_E_CANCELLED && !job.settings.checkpoint.empty()) {
      try {
        job.save_checkpoint();
      } catch (const Error& write_error) {
        fail(write_error.status(), "the job was cancelled, but its checkpoint was lost: {}", write_error.what());
      }
      fail(SLA2_E_CANCELLED, "cancelled on request after {} of {} steps; its state is in {}", job.state.step,
           job.settings.steps(), job.settings.checkpoint);
    }
    throw;
  }
  job.note([&](RunRecord& r) { r.total_seconds = meter.elapsed(); });
  meter.report(Phase::kDone, 1, 1, 1);
}

}  // namespace sla2::pipeline
