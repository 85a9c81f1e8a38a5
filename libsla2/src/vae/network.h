// SPDX-License-Identifier: Apache-2.0
// A list of blocks with weights, and a stream of frames through it.
#pragma once
#include <functional>
#include <memory>
#include <vector>

#include "vae/stage.h"

namespace sla2::vae {

/// What the whole list needs for frames that enter at this size.
BlockCost block_cost(const BlockSpec& spec, int64_t height, int64_t width, const Format& format);
BlockCost total_cost(const std::vector<BlockSpec>& blocks, int64_t height, int64_t width, const Format& format);

/// Bytes of a stream: caches and workspace.
uint64_t stream_bytes(const BlockCost& total);

class Network {
 public:
  Network(std::vector<BlockSpec> specs, const WeightReader& reader);
  [[nodiscard]] const std::vector<BlockSpec>& specs() const noexcept { return specs_; }
  [[nodiscard]] const Block& block(size_t index) const noexcept { return *blocks_[index]; }
  [[nodiscard]] const Format& format() const noexcept { return format_; }

 private:
  std::vector<BlockSpec> specs_;
  std::vector<std::unique_ptr<Block>> blocks_;
  Format format_;
};

/// One stream of frames; the network must outlive it. Not thread-safe.
class Stream {
 public:
  /// A frame comes out: blocked, of `shape`.
  using Sink = std::function<void(const kernels::FrameShape& shape, const float* frame)>;
  Stream(const Network& network, int64_t height, int64_t width);
  /// Push one planar frame [C,H,W] (planes `plane_stride` apart); `sink` gets every frame this completes.
  void push(const float* planar, int64_t plane_stride, const Sink& sink);

 private:
  void run_from(size_t index, const Sink& sink);
  const Network& network_;
  kernels::FrameShape input_, output_;
  std::vector<std::unique_ptr<Stage>> stages_;
  Workspace workspace_;
};

}  // namespace sla2::vae
