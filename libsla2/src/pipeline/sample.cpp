// SPDX-License-Identifier: Apache-2.0
// Sampling: the DiT's velocities through the solver, step by step. After each step everything a checkpoint needs is in
// job.state; a step that gives NaN or infinity is repeated with full attention and then in fp32, and never passed on.
#include <algorithm>
#include <chrono>
#include <cmath>

#include "pipeline/context.h"
#include "video/video.h"

namespace sla2::pipeline {

namespace {

constexpr int kLatentStride = 4;  // frames of the clip per latent frame

bool all_finite(std::span<const float> values) {
  return std::all_of(values.begin(), values.end(), [](float value) { return std::isfinite(value); });
}

class SamplingRun {
 public:
  SamplingRun(JobContext& job, ProgressMeter& meter)
      : job_(job),
        meter_(meter),
        settings_(job.settings),
        noise_(job.settings.seed),
        solver_(sampler::Solver::create(settings_.solver, settings_.schedule)) {
    noise_.restore(job.state.noise_state);
    if (job.state.step > 0) solver_->restore(job.state.solver);
    velocity_ = uncond_ = job.state.x;
    attention_ = job.state.attention;
  }

  void run() {
    load();
    const int steps = settings_.steps();
    meter_.report(Phase::kSample, job_.state.step, steps, share());
    for (int i = job_.state.step; i < steps; ++i) {
      const auto start = std::chrono::steady_clock::now();
      one_step(i);
      const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
      job_.note([&](RunRecord& r) {
        r.step_seconds.push_back(seconds);
        r.steps_done = i + 1;
        r.attention = job_.state.attention;
      });
      save_if_due(i + 1);
      meter_.report(Phase::kSample, i + 1, steps, share());
      job_.cancel.check();
    }
  }

 private:
  [[nodiscard]] double share() const { return static_cast<double>(job_.state.step) / settings_.steps(); }

  [[nodiscard]] bool on_gpu() const { return job_.rung != Rung::kCpu; }
  [[nodiscard]] bool below_fp32() const {
    if (job_.state.use_fp32) return false;
    if (on_gpu()) return true;
    return settings_.linear_bits < 16 || dit::resolved(settings_.precision) == dit::Precision::kBf16;
  }

  /// Load the DiT and everything that depends on the prompts and the grid; also after a change of precision. A GPU whose memory
  /// does not do gives way rung by rung.
  void load() {
    const auto start = std::chrono::steady_clock::now();
    if (job_.state.use_fp32) job_.rung = Rung::kCpu;  // tensor cores have no fp32
    while (true) {
      positive_.reset();
      negative_.reset();
      dit_.reset();  // two copies of the weights must never be alive at once
      try {
        load_once();
        break;
      } catch (const Error& error) {
        step_down(error);
      }
    }
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    job_.note([&](RunRecord& r) {
      r.load_seconds += seconds;
      r.dit_where = rung_text(job_.rung);
      r.products = dit_->products();
      r.use_fp32 = job_.state.use_fp32;
    });
  }

  void load_once() {
    dit::Options options = dit_options(settings_, job_.rung);
    if (job_.state.use_fp32) options.precision = dit::Precision::kF32, options.linear_bits = dit::Options().linear_bits;
    constexpr int kUnits = 100;
    const auto progress = [&](double part) { meter_.report(Phase::kLoad, static_cast<int>(part * kUnits), kUnits, part); };
    const auto weights = dit::with_loras(job_.parts().dit, settings_.loras);
    dit_ = on_gpu() ? dit::Dit::load_on(*settings_.gpu, weights, options, job_.cancel, progress)
                    : dit::Dit::load(weights, options, job_.cancel, progress);
    dit_->set_grid(settings_.grid);
    positive_ = dit_->prepare_prompt(job_.state.positive);
    if (settings_.guided()) negative_ = dit_->prepare_prompt(job_.state.negative);
  }

  /// To the next rung where the GPU's memory did not do; other errors go on their way.
  void step_down(const Error& error) {
    if (error.status() != SLA2_E_MEMORY || !on_gpu()) throw error;
    const Rung next = static_cast<Rung>(static_cast<int>(job_.rung) + 1);
    job_.fall_back(meter_, fmt::format("{} did not do ({}); next: {}", rung_text(job_.rung), error.what(), rung_text(next)));
    job_.rung = next;
  }

  /// Guided velocity at step i into velocity_. @return the first bad block, -1 if every number is finite.
  int predict(int i, std::span<const dit::LayerAttention> policy) {
    while (true) {
      try {
        return predict_once(i, policy);
      } catch (const Error& error) {
        step_down(error);
      }
      load();
    }
  }
  int predict_once(int i, std::span<const dit::LayerAttention> policy) {
    const float timestep = settings_.schedule.timesteps[static_cast<size_t>(i)];
    dit::ForwardReport first, second;
    if (settings_.guided())
      dit_->forward_pair(job_.state.x, timestep, *positive_, *negative_, policy, job_.cancel, velocity_, uncond_, &first,
                         &second);
    else
      dit_->forward(job_.state.x, timestep, *positive_, policy, job_.cancel, velocity_, &first);
    const auto judged = [&](const dit::ForwardReport& report, const latent::Latent& velocity) {
      for (const dit::LayerReport& layer : report.layers) attention_.add(layer.attention);
      job_.note([&](RunRecord& r) { r.add(report); });
      if (report.first_bad_block < 0 && !all_finite(velocity.values)) return static_cast<int>(dit_->config().layers);
      return report.first_bad_block;
    };
    int bad = judged(first, velocity_);
    if (bad >= 0 || !settings_.guided()) return bad;
    bad = judged(second, uncond_);
    if (bad >= 0) return bad;
    sampler::apply_guidance(velocity_.values, uncond_.values, settings_.cfg_scale);
    return all_finite(velocity_.values) ? -1 : static_cast<int>(dit_->config().layers);
  }

  /// NaN guard: as set, then full attention, then fp32; each only if it changes something.
  void predict_guarded(int i) {
    const auto policy = attention_policy(settings_.attention, i, settings_.steps(), job_.parts().dit_config.layers);
    int bad = predict(i, policy);
    if (bad < 0) return;
    const auto where = [&](int block) {
      return block >= dit_->config().layers ? std::string("the head") : fmt::format("block {}", block);
    };
    const int first_bad = bad;
    if (settings_.nan_retry && !policy.empty()) {
      job_.fall_back(meter_, fmt::format("step {} gave NaN or infinity in {} with attention as set; repeated with full attention",
                                         i + 1, where(bad)));
      bad = predict(i, {});
      if (bad < 0) return;
    }
    if (settings_.nan_retry && below_fp32()) {
      job_.fall_back(meter_, fmt::format("step {} gave NaN or infinity in {} with {}; repeated in fp32, as is the rest", i + 1,
                                         where(bad), settings_.linear_bits == 8 ? "8-bit Linears" : "bf16"));
      job_.state.use_fp32 = true;
      load();
      bad = predict(i, {});
      if (bad < 0) return;
    }
    fail(SLA2_E_NUMERIC,
         "step {} of {} gave NaN or infinity, first in {}{}; no file was written. The weights in {} may be damaged (download "
         "them again), or "
         "cfg_scale is too large",
         i + 1, settings_.steps(), where(first_bad), settings_.nan_retry ? ", also with full attention and fp32" : "",
         job_.parts().dit->path());
  }

  void one_step(int i) {
    predict_guarded(i);
    if (preview_due(i)) show_preview(i);
    std::vector<float> noise;
    if (settings_.schedule.stochastic) {
      noise.resize(job_.state.x.values.size());
      noise_.fill_normal(noise);
    }
    next_ = job_.state.x.values;
    solver_->step(i, next_, velocity_.values, noise);
    SLA2_CHECK(all_finite(next_), SLA2_E_NUMERIC,
               "step {} of {}: the solver {} gave NaN or infinity; try sampler = euler, or a smaller cfg_scale", i + 1,
               settings_.steps(), settings_.solver);
    // From here to the end nothing throws: the state is whole before the step or after it, never between.
    auto solver_state = solver_->save();
    auto noise_state = noise_.save();
    job_.state.x.values.swap(next_);
    job_.state.solver = std::move(solver_state);
    job_.state.noise_state = std::move(noise_state);
    job_.state.step = i + 1;
    job_.state.attention = attention_;
  }

  void save_if_due(int done) {
    const bool asked = job_.checkpoint_wanted.exchange(false);
    const bool due = settings_.checkpoint_every > 0 && done % settings_.checkpoint_every == 0 && done < settings_.steps();
    if (asked || due) job_.save_checkpoint();
  }

  [[nodiscard]] bool preview_due(int i) const {
    return job_.callbacks.on_preview && settings_.preview_every > 0 && (i + 1) % settings_.preview_every == 0;
  }

  /// Rough pictures of the clip the model predicts now: x0 = x - sigma * v.
  void show_preview(int i) {
    latent::Latent x0 = job_.state.x;
    const float sigma = settings_.schedule.sigmas[static_cast<size_t>(i)];
    for (size_t k = 0; k < x0.values.size(); ++k) x0.values[k] -= sigma * velocity_.values[k];
    std::vector<uint8_t> rgb;
    video::preview_rgb(x0, job_.parts().preview_factors, rgb);
    const auto count = static_cast<int>(x0.frames);
    const double fps = settings_.fps / kLatentStride;
    job_.callbacks.on_preview({static_cast<int>(x0.width), static_cast<int>(x0.height), 0, count, count, rgb.data(), fps}, i + 1);
  }

  JobContext& job_;
  ProgressMeter& meter_;
  const Settings& settings_;
  latent::NoiseSource noise_;
  std::unique_ptr<sampler::Solver> solver_;
  std::unique_ptr<dit::Dit> dit_;
  std::unique_ptr<dit::PromptContext> positive_, negative_;
  latent::Latent velocity_, uncond_;  // [C,F,H,W]
  std::vector<float> next_;
  AttentionTotals attention_;
};

}  // namespace

void sample(JobContext& job, ProgressMeter& meter) {
  if (job.state.step >= job.settings.steps()) return;  // resumed after the last step
  SamplingRun(job, meter).run();
}

}  // namespace sla2::pipeline
