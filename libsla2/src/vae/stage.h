// SPDX-License-Identifier: Apache-2.0
// How frames travel: one at a time, depth first. A Block holds weights; start() gives a Stage, which holds what one stream of
// frames has left behind (the caches). A stage finds its input in Workspace::x, leaves its output there, and calls `next` once
// per output frame: never (a temporal downsample that waits), once, or twice (a temporal upsample). Because every cache is
// causal this is exact, and only one frame per level is ever in flight.
#pragma once
#include <functional>
#include <memory>

#include "core/core.h"
#include "kernels/frame.h"
#include "kernels/winograd.h"
#include "vae/blocks.h"
#include "vae/weight_reader.h"

namespace sla2::vae {

/// Scratch shared by all stages of a stream; nothing in it outlives one push except x.
struct Workspace {
  AlignedBuffer<float> x;            ///< the frame in flight
  AlignedBuffer<float> y;            ///< a second one of the same size
  AlignedBuffer<float> side;         ///< smaller pieces: shortcut, upsampling phase, attention rows
  AlignedBuffer<bf16_t> narrow;      ///< a frame rounded for bf16 products
  AlignedBuffer<std::byte> scratch;  ///< of the convolution that runs, for every thread

  /// A frame as products of this type want it: itself, or rounded into `narrow`.
  const void* source(const kernels::FrameShape& shape, const float* frame, DType products);
  /// Scratch of a Winograd convolution; throws INTERNAL if the plan did not foresee it.
  std::byte* scratch_for(const kernels::PackedWinograd& weights, int64_t height, int64_t width);
};

using Next = std::function<void()>;

class Stage {
 public:
  virtual ~Stage() = default;
  virtual void push(Workspace& workspace, const Next& next) = 0;
};

class Block {
 public:
  virtual ~Block() = default;
  /// A new stream of frames of this size (as they enter the block).
  [[nodiscard]] virtual std::unique_ptr<Stage> start(int64_t height, int64_t width) const = 0;
};

/// What a block needs at one frame size.
struct BlockCost {
  uint64_t weight_bytes = 0;
  uint64_t state_bytes = 0;     ///< caches of one stream
  int64_t frame_elements = 0;   ///< of Workspace::x and ::y
  int64_t side_elements = 0;    ///< of Workspace::side
  int64_t narrow_elements = 0;  ///< of Workspace::narrow
  uint64_t scratch_bytes = 0;   ///< of Workspace::scratch

  /// What follows in the same stream: weights and states add up, the workspace is shared.
  BlockCost& operator+=(const BlockCost& other) noexcept;
};

// One pair per kind of block.
std::unique_ptr<Block> load_pointwise(const WeightReader& reader, const BlockSpec& spec);
std::unique_ptr<Block> load_input(const WeightReader& reader, const BlockSpec& spec);
std::unique_ptr<Block> load_head(const WeightReader& reader, const BlockSpec& spec);
std::unique_ptr<Block> load_residual(const WeightReader& reader, const BlockSpec& spec);
std::unique_ptr<Block> load_attention(const WeightReader& reader, const BlockSpec& spec);
std::unique_ptr<Block> load_upsample(const WeightReader& reader, const BlockSpec& spec);
std::unique_ptr<Block> load_downsample(const WeightReader& reader, const BlockSpec& spec);

BlockCost pointwise_cost(const BlockSpec& spec, int64_t height, int64_t width, const Format& format);
BlockCost input_cost(const BlockSpec& spec, int64_t height, int64_t width, const Format& format);
BlockCost head_cost(const BlockSpec& spec, int64_t height, int64_t width, const Format& format);
BlockCost residual_cost(const BlockSpec& spec, int64_t height, int64_t width, const Format& format);
BlockCost attention_cost(const BlockSpec& spec, int64_t height, int64_t width, const Format& format);
BlockCost upsample_cost(const BlockSpec& spec, int64_t height, int64_t width, const Format& format);
BlockCost downsample_cost(const BlockSpec& spec, int64_t height, int64_t width, const Format& format);

}  // namespace sla2::vae
