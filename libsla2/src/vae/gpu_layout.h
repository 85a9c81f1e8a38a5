// SPDX-License-Identifier: Apache-2.0
// Memory of one stream of frames on a GPU, from sizes alone: frames in flight, which blocks take turns with, and what the causal
// convolutions remember.
#pragma once
#include <map>
#include <vector>

#include "core/arena.h"
#include "vae/gpu_weights.h"

namespace sla2::vae {

/// Frames of one size that convolutions remember: two each, and one for the newest, which goes from hand to hand.
struct FrameKind {
  int64_t channels = 0, height = 0, width = 0;
  auto operator<=>(const FrameKind&) const = default;
  [[nodiscard]] int64_t pixels() const noexcept { return height * width; }
  [[nodiscard]] uint64_t bytes() const noexcept { return static_cast<uint64_t>(channels * pixels()) * sizeof(bf16_t); }
};
struct FrameShelf {
  int count = 0;
  size_t place = 0;
};

struct GpuLayout {
  /// `latent_frames`: of the clip; `height`, `width`: of the latent, or of a tile of it.
  GpuLayout(const GpuPlaces& places, const config::VaeConfig& config, int64_t latent_frames, int64_t height, int64_t width);

  [[nodiscard]] uint64_t bytes() const noexcept { return memory.total_bytes(); }
  [[nodiscard]] FrameKind entering(const BlockSpec& spec) const noexcept {
    return {spec.in, height * spec.numerator, width * spec.numerator};
  }

  int64_t height, width;
  MemoryPlan memory;
  std::map<FrameKind, FrameShelf> shelves;
  uint64_t remembered_bytes = 0;  ///< of the shelves and the halves
  std::vector<size_t> halves;     ///< by block: both frames of a temporal upsampling [pixels, 2, in] bf16
  size_t latents = 0;             ///< [frames, pixels, z] bf16
  size_t planes[2] = {};          ///< [frames of a chunk, 3, pixels] fp32, turn and turn about
  uint64_t planes_bytes = 0;      ///< of one
  size_t x = 0;                   ///< the frame in flight, fp32
  size_t narrow = 0;              ///< the same in bf16, for shortcuts and upsampling
  size_t hidden = 0, sum = 0;     ///< inside a residual block: bf16, and the shortcut's fp32
  size_t pictures = 0;            ///< what the head gives: [pixels, 8] fp32
  // The middle attention. Rows are filled up to a multiple of 8.
  int64_t tokens = 0, filled = 0, query_rows = 0;
  size_t normed = 0, query = 0, key = 0, value = 0;  ///< [filled, C]; value is [C, filled]
  size_t scores = 0, weights = 0;                    ///< [query_rows, filled] fp32, bf16
};

}  // namespace sla2::vae
