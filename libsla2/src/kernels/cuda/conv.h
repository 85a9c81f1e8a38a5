// SPDX-License-Identifier: Apache-2.0
// A causal convolution as an implicit product: rows are the pixels of a patch of 16 x 8, columns are output channels, and what is
// summed over are frames, taps and input channels. A patch of 32 channels with its border is copied once and read by every tap of
// the frame: a tap is another row number in shared memory. Only weights come anew for each, three stages ahead of their use.
#pragma once
#include "kernels/cuda/product_step.h"
#include "kernels/cuda/vae_params.h"

namespace sla2::cuda {

/// kAcross warps lie side by side along the columns, the others one below the other along the pixels.
template <uint32_t kColumns, uint32_t kAcross>
struct Conv {
  static constexpr uint32_t kStep = kGemmStepBytes, kWarps = kConvThreads / 32;
  static constexpr uint32_t kRowFragments = kConvHeight / (kWarps / kAcross);  ///< a fragment is 16 pixels: a row of the patch
  static constexpr uint32_t kColumnFragments = kColumns / kAcross / 8;
  static constexpr uint32_t kStage = kColumns * kStep, kPatches = kConvStages * kStage;
  static_assert(kConvWidth == 16 && kColumnFragments % 2 == 0);

  /// Where a step is: taps fastest, then 32 channels, then frames. A group is what one patch serves.
  struct Place {
    int32_t frame = 0, chunk = 0, tap = 0;
    uint32_t stage = 0, slot = 0;
  };

  const ConvParams& p;
  const int32_t taps, chunks, border, slots;
  const uint32_t patch_width, patch_rows, row_bytes;
  int32_t y0, x0;  ///< of the patch, in y
  int64_t first_column;
  float sum[kRowFragments][kColumnFragments][4] = {};

  SLA2_DEVICE explicit Conv(const ConvParams& params)
      : p(params),
        taps(p.side * p.side),
        chunks((p.in * 2 + static_cast<int32_t>(kStep) - 1) / static_cast<int32_t>(kStep)),
        border(p.side / 2),
        slots(p.side == 1 ? 3 : 2),
        patch_width(static_cast<uint32_t>((kConvWidth >> p.doubled) + 2 * border)),
        patch_rows(patch_width * static_cast<uint32_t>((kConvHeight >> p.doubled) + 2 * border)),
        row_bytes(static_cast<uint32_t>(p.in) * 2) {
    const auto tiles = (static_cast<uint32_t>(p.out) + kColumns - 1) / kColumns;
    const uint32_t patches_across = ((static_cast<uint32_t>(p.width) << p.doubled) + kConvWidth - 1) / kConvWidth;
    const uint32_t patch = block_x() / tiles;
    first_column = static_cast<int64_t>(block_x() % tiles) * kColumns;
    y0 = static_cast<int32_t>(patch / patches_across) * kConvHeight;
    x0 = static_cast<int32_t>(patch % patches_across) * kConvWidth;
  }

  SLA2_DEVICE void advance(Place& at) const {
    at.stage = at.stage + 1 == kConvStages ? 0 : at.stage + 1;
    if (++at.tap < taps) return;
    at.tap = 0;
    at.slot = at.slot + 1 == static_cast<uint32_t>(slots) ? 0 : at.slot + 1;
    if (++at.chunk < chunks) return;
    at.chunk = 0, ++at.frame;
  }
  [[nodiscard]] SLA2_DEVICE uint32_t patch_at(const Place& at) const { return kPatches + at.slot * patch_rows * kStep; }

  /// A frame's pixels under the patch and its border; outside the frame, and beyond the channels, zeros.
  SLA2_DEVICE void copy_patch(const Place& at) const {
    const uint32_t to = patch_at(at), from_byte = static_cast<uint32_t>(at.chunk) * kStep;
    const int32_t top = (y0 >> p.doubled) - border, left = (x0 >> p.doubled) - border;
    for (uint32_t index = thread_index(); index < patch_rows * (kStep / 16); index += kConvThreads) {
      const uint32_t row = index / (kStep / 16), byte = index % (kStep / 16) * 16;
      const int32_t y = top + static_cast<int32_t>(row / patch_width), x = left + static_cast<int32_t>(row % patch_width);
      const uint32_t target = to + image_offset(0, kStep, row, byte);
      if (y >= 0 && y < p.height && x >= 0 && x < p.width && from_byte + byte < row_bytes) {
        const int64_t pixel = static_cast<int64_t>(y) * p.width + x;
        copy_async_16(target, reinterpret_cast<const unsigned char*>(p.frames[at.frame] + pixel * p.stride_x) + from_byte + byte);
      } else {
        shared_store<Zeros>(target, Zeros{});
      }
    }
  }

  /// Copies that the step needs; nothing beyond the last.
  SLA2_DEVICE void start(Place& at) const {
    if (at.frame < p.count) {
      if (at.tap == 0) copy_patch(at);
      const auto* const weight =
          reinterpret_cast<const unsigned char*>(p.weight) + static_cast<int64_t>(at.frame * taps + at.tap) * p.out * row_bytes;
      copy_rows<kColumns, kConvThreads>(at.stage * kStage, weight, row_bytes, first_column, p.out,
                                        static_cast<uint32_t>(at.chunk) * kStep, row_bytes);
      advance(at);
    }
    copy_async_commit();
  }

  SLA2_DEVICE void add_step(const Place& at, uint32_t warp_y, uint32_t warp_column) {
    const auto doubled = static_cast<uint32_t>(p.doubled);
    const uint32_t tap_y = static_cast<uint32_t>(at.tap / p.side) + doubled,
                   tap_x = static_cast<uint32_t>(at.tap % p.side) + doubled;
    add_product_step<ProductBf16, kRowFragments, kColumnFragments>(
        sum, patch_at(at),
        [&](uint32_t m, uint32_t x) { return ((warp_y + m + tap_y) >> doubled) * patch_width + ((x + tap_x) >> doubled); },
        at.stage * kStage, warp_column);
  }

  SLA2_DEVICE void store(uint32_t warp_y, uint32_t warp_column) const {
    const uint32_t lane = thread_index() % 32, g = lane / 4, t = lane % 4;
    const int32_t height = p.height << p.doubled, width = p.width << p.doubled;
#pragma unroll
    for (uint32_t n = 0; n < kColumnFragments; ++n) {
      const int64_t column = first_column + warp_column + n * 8 + 2 * t;
      if (column >= p.out) continue;
      const TwoFloats bias{p.bias[column], p.bias[column + 1]};
#pragma unroll
      for (uint32_t m = 0; m < kRowFragments; ++m)
#pragma unroll
        for (uint32_t half = 0; half < 2; ++half) {
          const int32_t y = y0 + static_cast<int32_t>(warp_y + m), x = x0 + static_cast<int32_t>(g + half * 8);
          if (y >= height || x >= width) continue;
          const int64_t at = (static_cast<int64_t>(y) * width + x) * p.stride_y + column;
          TwoFloats v{sum[m][n][2 * half] + bias.x, sum[m][n][2 * half + 1] + bias.y};
          if (p.residual != nullptr) {
            const auto before = *reinterpret_cast<const TwoFloats*>(p.residual + at);
            v = {before.x + v.x, before.y + v.y};
          }
          if (p.element == kElementBf16)
            *reinterpret_cast<uint32_t*>(static_cast<uint16_t*>(p.y) + at) = pack_bf16(v.x, v.y);
          else
            *reinterpret_cast<TwoFloats*>(static_cast<float*>(p.y) + at) = v;
        }
    }
  }

  SLA2_DEVICE void run() {
    const uint32_t warp = thread_index() / 32, warp_y = warp / kAcross * kRowFragments,
                   warp_column = warp % kAcross * kColumnFragments * 8;
    const bool active = first_column + warp_column < p.out && y0 + static_cast<int32_t>(warp_y) < p.height << p.doubled;
    Place coming;
    for (int32_t step = 0; step < kConvStages - 1; ++step) start(coming);
    for (Place now; now.frame < p.count; advance(now)) {
      copy_async_wait<kConvStages - 2>();
      sync_threads();  // this step has come for all; nobody reads what is filled next: a stage, or the patch of a group that is
                       // done
      start(coming);
      if (active) add_step(now, warp_y, warp_column);
    }
    copy_async_wait<0>();
    if (active) store(warp_y, warp_column);
  }
};

}  // namespace sla2::cuda
