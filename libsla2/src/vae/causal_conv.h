// SPDX-License-Identifier: Apache-2.0
// A causal 3-D convolution fed one frame at a time. The past frames it needs stay where they were written: a ring of frames.
// fp32: three 2-D convolutions add to one output, and the oldest frame is used up before the newest takes its place.
// bf16: one Winograd convolution of all frames. Frames before the first are zeros and are simply not computed.
#pragma once
#include <variant>
#include <vector>

#include "kernels/conv.h"
#include "kernels/winograd.h"
#include "vae/stage.h"
#include "vae/weight_reader.h"

namespace sla2::vae {

/// The last frames of a stream, as the products want them. slot() is where the next one goes.
class FrameRing {
 public:
  FrameRing(const kernels::FrameShape& shape, int depth, DType type);
  /// Put a frame, or its norm and SiLU, into slot().
  void write(const float* frame);
  void write_normalised(const float* frame, const float* gamma);
  [[nodiscard]] const void* slot() const noexcept { return frame(count_); }
  /// The frame `back` before the one that goes into slot(), or null if the stream is younger. back = depth is slot() itself,
  /// readable until it is overwritten.
  [[nodiscard]] const void* past(int back) const noexcept { return back > count_ ? nullptr : frame(count_ - back); }
  void advance() noexcept { ++count_; }
  [[nodiscard]] int64_t count() const noexcept { return count_; }
  [[nodiscard]] static uint64_t bytes(const kernels::FrameShape& shape, int depth, DType type) noexcept;

 private:
  [[nodiscard]] const std::byte* frame(int64_t index) const noexcept {
    return frames_[static_cast<size_t>(index) % frames_.size()].data();
  }
  template <typename T>
  [[nodiscard]] T* slot_as() noexcept {
    return reinterpret_cast<T*>(frames_[static_cast<size_t>(count_) % frames_.size()].data());
  }
  kernels::FrameShape shape_;
  DType type_;
  std::vector<AlignedBuffer<std::byte>> frames_;
  int64_t count_ = 0;
};

/// The three taps of a direct convolution at one frame size.
class TapConvs {
 public:
  TapConvs(const CausalTaps& taps, int64_t height, int64_t width);
  /// dst (+)= the taps on past(2) and past(1), as far as there are such frames. @return whether dst holds something.
  bool run_past(const FrameRing& ring, float* dst, bool accumulate, Workspace& workspace);
  /// dst (+)= the tap on the newest frame, and the bias.
  void run_newest(const void* newest, float* dst, bool accumulate, Workspace& workspace);
  [[nodiscard]] const kernels::FrameShape& input() const noexcept { return convs_.back().input(); }
  [[nodiscard]] DType products() const noexcept { return convs_.back().products(); }

 private:
  std::vector<kernels::Conv> convs_;
};

/// Weights of a causal 3x3x3 convolution: taps for fp32 products, points for those of bf16.
using CausalWeights = std::variant<CausalTaps, kernels::PackedWinograd>;
CausalWeights read_causal(const WeightReader& reader, const std::string& name, int64_t in, int64_t out);

/// A convolution with its ring. The weights must outlive it.
class CausalConv {
 public:
  CausalConv(const CausalWeights& weights, int64_t height, int64_t width);
  /// dst = (accumulate ? dst : 0) + conv(stream of x), of norm and SiLU of x where there is a gamma. x and dst must not overlap.
  void push(const float* x, const float* gamma, float* dst, bool accumulate, Workspace& workspace);

 private:
  std::variant<TapConvs, const kernels::PackedWinograd*> convs_;
  FrameRing ring_;
  int64_t height_, width_;
};

/// Weights, ring and scratch of a causal 3x3x3 convolution.
BlockCost causal_cost(int64_t in, int64_t out, int64_t height, int64_t width, const Format& format);
/// Weights and scratch of three 1x1 taps.
BlockCost time_cost(int64_t in, int64_t out, int64_t height, int64_t width, const Format& format);
/// The same of one direct convolution with a bias.
BlockCost direct_cost(const kernels::ConvGeometry& geometry, int64_t height, int64_t width, const Format& format);

}  // namespace sla2::vae
