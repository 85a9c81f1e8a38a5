// SPDX-License-Identifier: Apache-2.0
// Decoding: the finished latent to the receiver of the frames, wherever the VAE fits. Memory that does not do gives way step by
// step, first of a GPU, then of this machine; NaN in bf16 gives way to fp32. Frames that have gone out do not go out again.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <new>

#include "pipeline/context.h"
#include "video/video.h"

namespace sla2::pipeline {

namespace {

/// Frames to the callbacks in their order, each once.
class FrameSender {
 public:
  FrameSender(JobContext& job, ProgressMeter& meter) : job_(job), meter_(meter) {}
  /// An error that came from the receiver, not from the decoder.
  [[nodiscard]] bool refused() const noexcept { return refused_; }

  void send(const vae::FrameChunk& chunk) {
    if (chunk.first + chunk.count <= sent_) return;  // another decoder's, which then failed
    SLA2_CHECK(chunk.first == sent_, SLA2_E_INTERNAL, "decoding: frames from {} on came after {} frames", chunk.first, sent_);
    const auto total = static_cast<int>(job_.settings.frames);
    video::frames_to_rgb(chunk, rgb_);
    const Frames frames{static_cast<int>(chunk.width),
                        static_cast<int>(chunk.height),
                        static_cast<int>(chunk.first),
                        static_cast<int>(chunk.count),
                        total,
                        rgb_.data(),
                        job_.settings.fps};
    if (job_.callbacks.on_frames) {
      const sla2_status status = job_.callbacks.on_frames(frames);
      refused_ = status != SLA2_OK;
      SLA2_CHECK(!refused_, status, "the receiver of the frames stopped the job at frame {} of {}", frames.first, total);
    }
    sent_ = chunk.first + chunk.count;
    const int done = static_cast<int>(sent_);
    job_.note([&](RunRecord& r) { r.frames = done; });
    meter_.report(Phase::kDecode, done, total, static_cast<double>(done) / total);
    job_.cancel.check();
  }

 private:
  JobContext& job_;
  ProgressMeter& meter_;
  std::vector<uint8_t> rgb_;
  int64_t sent_ = 0;
  bool refused_ = false;
};

/// How decoding goes on after a failure: where, and in which format.
struct Attempt {
  DecodePlan plan;
  vae::Precision precision;
  [[nodiscard]] bool in_bf16() const { return plan.on_gpu || vae::decode_precision(precision) == vae::Precision::kBf16; }
};

void decode_as(JobContext& job, const Attempt& attempt, FrameSender& sender) {
  const DecodePlan& plan = attempt.plan;
  const vae::Precision precision = attempt.precision;
  const weights::Checkpoint& checkpoint = *job.parts().vae;
  const auto decoder = plan.on_gpu ? vae::Decoder::load_on(*job.settings.gpu, checkpoint, precision, job.cancel)
                                   : vae::Decoder::load(checkpoint, precision);
  job.note([&](RunRecord& r) {
    r.vae_where = decode_where(plan);
    r.vae_products = decoder->products();
  });
  job.cancel.check();
  decoder->decode(job.state.x, decode_options(precision, plan.tile), job.cancel,
                  [&](const vae::FrameChunk& chunk) { sender.send(chunk); });
}

/// Sampling lets no bad number pass, but a checkpoint lies in a file before it is decoded.
void check_latent(const JobContext& job) {
  const std::vector<float>& values = job.state.x.values;
  const bool finite = std::all_of(values.begin(), values.end(), [](float value) { return std::isfinite(value); });
  SLA2_CHECK(finite, SLA2_E_NUMERIC,
             "the finished latent holds NaN or infinity, which sampling never leaves: {} was damaged after it was written. Start "
             "anew; the VAE is not to blame",
             job.settings.checkpoint.empty() ? std::string("it") : job.settings.checkpoint);
}

/// Less memory: tiles, smaller ones. Throws where there is nothing left.
Attempt after_memory(JobContext& job, ProgressMeter& meter, const Attempt& failed, const std::string& why) {
  const auto next = next_decode(job.parts(), job.settings, failed.plan, job.plan.vae_tile);
  SLA2_CHECK(next, SLA2_E_MEMORY,
             "out of memory while decoding on {} ({}). The latent is finished{}: close other programs and go on, or go on with a "
             "smaller vae_tile, such as 64{}",
             decode_where(failed.plan), why, job.settings.checkpoint.empty() ? "" : " and in " + job.settings.checkpoint,
             failed.in_bf16() || !has_fast_bf16() ? "" : ", or with vae_precision = bf16, which takes about half");
  const bool tiled = next->tile != failed.plan.tile;
  job.fall_back(
      meter, fmt::format("decoding {}{} did not do ({}); next: {}{}", failed.plan.on_gpu ? "" : "on ", decode_where(failed.plan),
                         why, decode_where(*next), tiled ? "; tiles are blended, not exact" : ""));
  return {*next, failed.precision};
}

/// More range: fp32, on the CPU. Throws where that was it already.
Attempt after_nan(JobContext& job, ProgressMeter& meter, const Attempt& failed, const std::string& why) {
  SLA2_CHECK(
      job.settings.nan_retry && failed.in_bf16(), SLA2_E_NUMERIC,
      "decoding gave NaN or infinity ({}){}; no file was written. The latent is sound, so the weights of the VAE are not: {} "
      "is damaged, or was stored as fp16 and overflowed. Download it again, or use a bf16 or fp32 file, and go on",
      why, failed.in_bf16() ? "" : ", in fp32", job.parts().vae->path());
  Attempt next{{}, vae::Precision::kF32};
  next.plan.tile = job.plan.vae_tile;
  job.fall_back(meter, fmt::format("decoding in bf16 gave NaN or infinity ({}); repeated on the CPU in fp32", why));
  return next;
}

}  // namespace

void decode(JobContext& job, ProgressMeter& meter) {
  const auto start = std::chrono::steady_clock::now();
  meter.report(Phase::kDecode, 0, static_cast<int>(job.settings.frames), 0);
  check_latent(job);
  FrameSender sender(job, meter);
  Attempt attempt{job.plan.decode, job.settings.vae_precision};
  while (true) {
    try {
      decode_as(job, attempt, sender);
      break;
    } catch (const Error& error) {
      if (sender.refused()) throw;
      if (error.status() == SLA2_E_MEMORY) {
        attempt = after_memory(job, meter, attempt, error.what());
      } else if (error.status() == SLA2_E_NUMERIC) {
        attempt = after_nan(job, meter, attempt, error.what());
      } else {
        throw;
      }
    } catch (const std::bad_alloc&) {
      attempt = after_memory(job, meter, attempt, "an allocation failed");
    }
  }
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  job.note([&](RunRecord& r) { r.decode_seconds = seconds; });
}

}  // namespace sla2::pipeline
