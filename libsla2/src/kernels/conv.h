// SPDX-License-Identifier: Apache-2.0
// 2-D convolution of one blocked frame (kernels/frame.h), fp32 out, through oneDNN's direct kernels: no im2col, weights packed
// once, dst either written or added to. A 3-D convolution of a video is three of these that add to one frame, which lets every
// past frame stay where it was written: no concatenation, no moving window.
// Measured against one 3-D convolution on AVX2 (96..384 channels): 85-91 GFLOP/s against 79-82 in the channels-last layout
// that a window of frames would need, on two cores.
// Sources and weights are fp32 or bf16 (where has_fast_bf16()), sums and results fp32.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "core/dtype.h"
#include "kernels/frame.h"

namespace sla2::kernels {

struct ConvGeometry {
  int64_t in_channels = 0, out_channels = 0;
  int64_t kernel_h = 1, kernel_w = 1, stride = 1;
  int64_t pad_top = 0, pad_left = 0, pad_bottom = 0, pad_right = 0;

  /// Square kernel of odd size with the padding that keeps the size.
  static ConvGeometry same(int64_t in_channels, int64_t out_channels, int64_t kernel);
  [[nodiscard]] FrameShape output(const FrameShape& input) const noexcept;
  [[nodiscard]] int64_t weight_count() const noexcept { return out_channels * in_channels * kernel_h * kernel_w; }
};

/// Weights [out, in, kernel_h, kernel_w] in the order of the kernels, and an optional bias [out]. Immutable, cheap to copy.
class PackedConv {
 public:
  PackedConv() = default;
  /// @param products kF32 or kBF16
  PackedConv(const ConvGeometry& geometry, const float* weights, const float* bias, int64_t block = preferred_block(),
             DType products = DType::kF32);
  [[nodiscard]] DType products() const noexcept;
  [[nodiscard]] const ConvGeometry& geometry() const noexcept;
  [[nodiscard]] int64_t block() const noexcept;
  [[nodiscard]] uint64_t bytes() const noexcept;
  /// bytes() of weights of this shape, without making them.
  [[nodiscard]] static uint64_t bytes_for(const ConvGeometry& geometry, bool bias, int64_t block = preferred_block(),
                                          DType products = DType::kF32);
  /// Scratch of run() on frames of this size, with today's thread_count(); oneDNN left alone keeps as much per convolution.
  [[nodiscard]] static uint64_t scratch_bytes(const ConvGeometry& geometry, int64_t height, int64_t width, bool bias,
                                              int64_t block = preferred_block(), DType products = DType::kF32);

 private:
  friend class Conv;
  struct Impl;
  std::shared_ptr<const Impl> impl_;
};

/// The convolution at one frame size. Not thread-safe: one per stream of frames.
class Conv {
 public:
  Conv(PackedConv weights, int64_t height, int64_t width);
  ~Conv();
  Conv(Conv&&) noexcept;
  Conv& operator=(Conv&&) noexcept;
  /// dst = (accumulate ? dst : 0) + conv(src) + bias; src holds elements of the type of the products.
  /// @param scratch PackedConv::scratch_bytes() of no fewer threads, 64-byte aligned; less of it throws INTERNAL
  void run(const void* src, float* dst, bool accumulate, std::span<std::byte> scratch);
  [[nodiscard]] DType products() const noexcept;
  [[nodiscard]] const FrameShape& input() const noexcept;
  [[nodiscard]] const FrameShape& output() const noexcept;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

namespace ref {
/// The same from the formula, sums in fp64; weights [out, in, kernel_h, kernel_w].
void conv(const ConvGeometry& geometry, const FrameShape& input, const float* weights, const float* bias, const float* src,
          float* dst, bool accumulate);
}  // namespace ref

}  // namespace sla2::kernels
