// SPDX-License-Identifier: Apache-2.0
// A causal 3-D convolution fed one frame at a time. The past frames it needs stay where they were written: a ring of frames,
// and three 2-D convolutions that add to one output. Frames before the first are zeros and are simply not computed.
#pragma once
#include <array>
#include <vector>

#include "kernels/conv.h"
#include "vae/weight_reader.h"

namespace sla2::vae {

/// The last frames of a stream. slot() is where the next one goes.
class FrameRing {
 public:
  FrameRing(const kernels::FrameShape& shape, int depth);
  [[nodiscard]] float* slot() noexcept { return frames_[static_cast<size_t>(count_ % depth())].data(); }
  /// The frame `back` before the one that goes into slot(), or null if the stream is younger. back = depth is slot() itself,
  /// readable until it is overwritten.
  [[nodiscard]] const float* past(int back) const noexcept;
  void advance() noexcept { ++count_; }
  [[nodiscard]] int64_t count() const noexcept { return count_; }
  [[nodiscard]] const kernels::FrameShape& shape() const noexcept { return shape_; }
  [[nodiscard]] static uint64_t bytes(const kernels::FrameShape& shape, int depth) noexcept;

 private:
  [[nodiscard]] int64_t depth() const noexcept { return static_cast<int64_t>(frames_.size()); }
  kernels::FrameShape shape_;
  std::vector<AlignedBuffer<float>> frames_;
  int64_t count_ = 0;
};

/// The three taps at one frame size.
class TapConvs {
 public:
  TapConvs(const CausalTaps& taps, int64_t height, int64_t width);
  /// dst (+)= the taps on past(2) and past(1), as far as there are such frames. @return whether dst holds something.
  bool run_past(const FrameRing& ring, float* dst, bool accumulate);
  /// dst (+)= the tap on the newest frame, and the bias.
  void run_newest(const float* newest, float* dst, bool accumulate);
  [[nodiscard]] const kernels::FrameShape& input() const noexcept { return convs_.back().input(); }

 private:
  std::vector<kernels::Conv> convs_;
};

/// Taps with their ring of two frames. Call begin(), write the new input frame to input(), call finish().
class CausalConv {
 public:
  CausalConv(const CausalTaps& taps, int64_t height, int64_t width);
  /// dst = (accumulate ? dst : 0) + what the past contributes; afterwards the oldest frame's memory is free for the new one.
  void begin(float* dst, bool accumulate) { holds_ = convs_.run_past(ring_, dst, accumulate); }
  [[nodiscard]] float* input() noexcept { return ring_.slot(); }
  [[nodiscard]] const kernels::FrameShape& input_shape() const noexcept { return convs_.input(); }
  void finish(float* dst) {
    convs_.run_newest(ring_.slot(), dst, holds_);
    ring_.advance();
  }
  static constexpr int kRingDepth = 2;

 private:
  TapConvs convs_;
  FrameRing ring_;
  bool holds_ = false;
};

/// Bytes of three taps' weights.
uint64_t causal_weight_bytes(int64_t in, int64_t out, int64_t kernel, int64_t block);

}  // namespace sla2::vae
