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
#include "vae/blocks.h"
#include "vae/weight_reader.h"

namespace sla2::vae {

/// Scratch shared by all stages of a stream; nothing in it outlives one push except x.
struct Workspace {
  AlignedBuffer<float> x;     ///< the frame in flight
  AlignedBuffer<float> y;     ///< a second one of the same size
  AlignedBuffer<float> side;  ///< smaller pieces: shortcut, upsampling phase, attention rows
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
  uint64_t state_bytes = 0;    ///< caches of one stream
  int64_t frame_elements = 0;  ///< of Workspace::x and ::y
  int64_t side_elements = 0;   ///< of Workspace::side
};

// One pair per kind of block; `block` is the channel block of the layout.
std::unique_ptr<Block> load_pointwise(const WeightReader& reader, const BlockSpec& spec);
std::unique_ptr<Block> load_input(const WeightReader& reader, const BlockSpec& spec);
std::unique_ptr<Block> load_head(const WeightReader& reader, const BlockSpec& spec);
std::unique_ptr<Block> load_residual(const WeightReader& reader, const BlockSpec& spec);
std::unique_ptr<Block> load_attention(const WeightReader& reader, const BlockSpec& spec);
std::unique_ptr<Block> load_upsample(const WeightReader& reader, const BlockSpec& spec);
std::unique_ptr<Block> load_downsample(const WeightReader& reader, const BlockSpec& spec);

BlockCost pointwise_cost(const BlockSpec& spec, int64_t height, int64_t width, int64_t block);
BlockCost input_cost(const BlockSpec& spec, int64_t height, int64_t width, int64_t block);
BlockCost head_cost(const BlockSpec& spec, int64_t height, int64_t width, int64_t block);
BlockCost residual_cost(const BlockSpec& spec, int64_t height, int64_t width, int64_t block);
BlockCost attention_cost(const BlockSpec& spec, int64_t height, int64_t width, int64_t block);
BlockCost upsample_cost(const BlockSpec& spec, int64_t height, int64_t width, int64_t block);
BlockCost downsample_cost(const BlockSpec& spec, int64_t height, int64_t width, int64_t block);

}  // namespace sla2::vae
