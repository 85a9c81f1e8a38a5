// SPDX-License-Identifier: Apache-2.0
// The three steps of kernels/winograd.h, for one block of channels and a run of tiles; plain types only, so that files compiled
// for one instruction set can include it.
#pragma once
#include <cstdint>

#include "core/dtype.h"

namespace sla2::kernels {

enum class WinogradForm : uint8_t {
  kSame,     ///< 3x3, zero padding, the size stays
  kDoubled,  ///< nearest x2, then the same
};

/// Channels per block of its frames, bf16 sources and fp32 results alike.
constexpr int64_t kWinogradBlock = 16;

/// Tiles side by side: `count` of them from column `first` of tile row `row`, on a source frame of height x width.
struct TileRun {
  int64_t height, width;
  int64_t row, first, count;
};

/// Tiles go in groups of kWinogradRows; a point of a strip is [groups][channel blocks][kWinogradRows][16] bf16, so that a
/// product reads it in order.
constexpr int64_t kWinogradRows = 8;
constexpr int64_t kWinogradColumns = 48;  // of a point's results

/// The three steps. Points are planes `plane` elements apart.
struct WinogradOps {
  /// v = B^T d B of every tile, for one block of channels; source [height, width, 16].
  /// @param v plane 0 of the strip at this channel block; groups are `group` elements apart
  /// @param tile index of the run's first tile within the strip
  void (*sources)(WinogradForm form, const TileRun& run, const bf16_t* source, bf16_t* v, int64_t plane, int64_t group,
                  int64_t tile);
  /// m [8·groups][48] (+)= v [8·groups][16·depth] · w [8·depth][16·blocks][2]; blocks 1 to 3.
  void (*products)(int64_t groups, int64_t depth, int64_t blocks, const bf16_t* v, int64_t group, const bf16_t* w, float* m,
                   bool accumulate);
  /// dst [height', width', 16] (+)= A^T m A + bias[16], where there are such pixels; m [tile][48] at 16 of the columns.
  void (*results)(WinogradForm form, const TileRun& run, const float* m, int64_t plane, const float* bias, float* dst,
                  bool accumulate);
};
[[nodiscard]] const WinogradOps& winograd_ref();
[[nodiscard]] const WinogradOps& winograd_avx512_bf16();  ///< call only where the CPU has AVX512-BF16

}  // namespace sla2::kernels
