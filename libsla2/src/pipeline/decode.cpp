// SPDX-License-Identifier: Apache-2.0
// Decoding: the finished latent to the receiver of the frames, wherever the VAE fits. A GPU whose memory does not do gives way
// step by step; frames that have gone out do not go out again.
#include <chrono>

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

void decode_as(JobContext& job, const DecodePlan& plan, FrameSender& sender) {
  const vae::Precision precision = job.settings.vae_precision;
  const weights::Checkpoint& checkpoint = *job.parts().vae;
  const auto decoder = plan.on_gpu ? vae::Decoder::load_on(*job.settings.gpu, checkpoint, precision, job.cancel)
                                   : vae::Decoder::load(checkpoint, precision);
  job.note([&](RunRecord& r) { r.vae_where = decode_where(plan); });
  job.cancel.check();
  vae::DecodeOptions options;
  options.precision = precision;
  options.tile = plan.tile;
  decoder->decode(job.state.x, options, job.cancel, [&](const vae::FrameChunk& chunk) { sender.send(chunk); });
}

}  // namespace

void decode(JobContext& job, ProgressMeter& meter) {
  const auto start = std::chrono::steady_clock::now();
  meter.report(Phase::kDecode, 0, static_cast<int>(job.settings.frames), 0);
  FrameSender sender(job, meter);
  DecodePlan plan = job.plan.decode;
  while (true) {
    try {
      decode_as(job, plan, sender);
      break;
    } catch (const Error& error) {
      if (error.status() != SLA2_E_MEMORY || !plan.on_gpu || sender.refused()) throw;
      const std::string failed = decode_where(plan);
      const std::string why = error.what();
      plan = next_decode(job.parts(), job.settings, plan);
      if (!plan.on_gpu) plan.tile = job.plan.vae_tile;
      job.fall_back(meter, fmt::format("decoding {} did not do ({}); next: {}", failed, why, decode_where(plan)));
    }
  }
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  job.note([&](RunRecord& r) { r.decode_seconds = seconds; });
}

}  // namespace sla2::pipeline
