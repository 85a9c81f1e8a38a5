// SPDX-License-Identifier: Apache-2.0
// 3x3 convolutions of bf16 frames with fewer products: Winograd's F(2x2, 3x3), for CPUs where has_fast_bf16().
//
//   Y = A^T [ (G g G^T) * (B^T d B) ] A      per tile of 2x2 outputs, summed over channels and frames in time
//
// Each tile of the source becomes 16 points, each point of all tiles is one matrix product over channels, and the 16 results
// become 2x2 outputs: 16 products where the formula has 36. Weights are transformed once in fp64 and held as bf16, sources are
// transformed in fp32 (sums only) and rounded to bf16, sums and results are fp32.
// All frames a causal 3-D convolution sees are one sum, so dst is read and written once.
// WinogradForm::kDoubled is the 3x3 convolution of a frame enlarged x2 to nearest pixels. Each source pixel is a tile; the
// points that see a difference of two equal pixels vanish, so 9 products are left of 36 and the large frame never exists.
// Tiles go in strips, one strip per task; a result depends neither on the strips nor on the threads.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "kernels/frame.h"
#include "kernels/winograd_ops.h"

namespace sla2::kernels {

struct WinogradGeometry {
  int64_t in_channels = 0, out_channels = 0;
  int64_t frames = 1;  ///< taps in time
  WinogradForm form = WinogradForm::kSame;
  [[nodiscard]] FrameShape output(const FrameShape& input) const noexcept;
  [[nodiscard]] int64_t weight_count() const noexcept { return out_channels * in_channels * frames * 9; }
};

/// Transformed weights and a bias. Immutable, cheap to copy.
class PackedWinograd {
 public:
  PackedWinograd() = default;
  /// @param weights [out, in, frames, 3, 3], oldest frame first; bias [out]
  PackedWinograd(const WinogradGeometry& geometry, const float* weights, const float* bias);
  [[nodiscard]] const WinogradGeometry& geometry() const noexcept;
  [[nodiscard]] uint64_t bytes() const noexcept;
  [[nodiscard]] static uint64_t bytes_for(const WinogradGeometry& geometry) noexcept;
  /// Scratch of run() on frames of this size, with today's thread_count().
  [[nodiscard]] static uint64_t scratch_bytes(const WinogradGeometry& geometry, int64_t height, int64_t width);
  /// dst = (accumulate ? dst : 0) + conv(frames) + bias.
  /// @param sources the newest frames of the stream, oldest first, at most geometry().frames; older ones count as zeros
  /// @param scratch scratch_bytes() bytes, 64-byte aligned
  void run(std::span<const bf16_t* const> sources, int64_t height, int64_t width, float* dst, bool accumulate,
           std::byte* scratch) const;

 private:
  struct Impl;
  std::shared_ptr<const Impl> impl_;
};

}  // namespace sla2::kernels
