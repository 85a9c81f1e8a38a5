// SPDX-License-Identifier: Apache-2.0
// A product of rows with a Linear's weight on tensor cores: 128 x 128 results to a block of 8 warps, each 64 x 32. Three stages
// of 64 bytes of every row stream through shared memory, one barrier a step. The same bytes are 32 bf16 or 64 int8: fragments of
// both have 4 bytes of neighbours along k, so one kernel body serves both.
#pragma once
#include "kernels/cuda/product_step.h"
#include "kernels/cuda/rows.h"
#include "kernels/cuda/runner_params.h"

namespace sla2::cuda {

template <typename Type>
struct Gemm {
  static constexpr uint32_t kStep = kGemmStepBytes, kOperand = kGemmRows * kStep, kStage = 2 * kOperand;
  static constexpr uint32_t kWarpsAcross = 4, kRowFragments = 4, kColumnFragments = 4;  // of 16 and of 8

  typename Type::Sum sum[kRowFragments][kColumnFragments][4];

  static SLA2_DEVICE float finished(const GemmParams& p, float v, float bias) {
    v += bias;
    if (p.finish == kGemmGeluTanh) return gelu_tanh(v);
    if (p.finish == kGemmSilu) return silu(v);
    return v;
  }

  SLA2_DEVICE void store(const GemmParams& p, int64_t first_row, int64_t first_column) const {
    const uint32_t lane = thread_index() % 32, g = lane / 4, t = lane % 4;
#pragma unroll
    for (uint32_t n = 0; n < kColumnFragments; ++n) {
      const int64_t column = first_column + n * 8 + 2 * t;
      if (column >= p.out) continue;
      TwoFloats bias{0, 0}, gate{1, 1}, scale{1, 1};
      if (p.bias != nullptr) bias = {p.bias[column], p.bias[column + 1]};
      if (p.gate != nullptr) gate = {p.gate[column], p.gate[column + 1]};
      if (Type::kBytes == 1) scale = {p.column_scale[column], p.column_scale[column + 1]};
#pragma unroll
      for (uint32_t m = 0; m < kRowFragments; ++m)
#pragma unroll
        for (uint32_t half = 0; half < 2; ++half) {
          const int64_t row = first_row + m * 16 + g + half * 8, at = row * p.stride_y + column;
          if (row >= p.rows) continue;
          TwoFloats v{static_cast<float>(sum[m][n][2 * half]), static_cast<float>(sum[m][n][2 * half + 1])};
          if (Type::kBytes == 1) {
            const float row_scale = p.row_scale[row];
            v = {v.x * (row_scale * scale.x), v.y * (row_scale * scale.y)};
          }
          v = {finished(p, v.x, bias.x), finished(p, v.y, bias.y)};
          if (p.element == kElementBf16) {
            *reinterpret_cast<uint32_t*>(static_cast<uint16_t*>(p.y) + at) = pack_bf16(v.x, v.y);
            continue;
          }
          auto* const y = reinterpret_cast<TwoFloats*>(static_cast<float*>(p.y) + at);
          if (p.finish == kGemmAddGated) v = {y->x + gate.x * v.x, y->y + gate.y * v.y};
          *y = v;
        }
    }
  }

  static SLA2_DEVICE void run(const GemmParams& p) {
    const uint32_t warp = thread_index() / 32, warp_row = warp / kWarpsAcross * kRowFragments * 16,
                   warp_column = warp % kWarpsAcross * kColumnFragments * 8;
    const int64_t first_row = static_cast<int64_t>(block_y()) * kGemmRows,
                  first_column = static_cast<int64_t>(block_x()) * kGemmColumns;
    const uint32_t row_bytes = static_cast<uint32_t>(p.in) * Type::kBytes;
    const int32_t steps = static_cast<int32_t>((row_bytes + kStep - 1) / kStep);
    const auto start = [&](int32_t step) {
      if (step < steps) {
        const uint32_t stage = static_cast<uint32_t>(step % kGemmStages) * kStage, at = static_cast<uint32_t>(step) * kStep;
        copy_rows<kGemmRows, kGemmThreads>(stage, static_cast<const unsigned char*>(p.x), p.stride_x * Type::kBytes, first_row,
                                           p.rows, at, row_bytes);
        copy_rows<kGemmColumns, kGemmThreads>(stage + kOperand, static_cast<const unsigned char*>(p.w), row_bytes, first_column,
                                              p.out, at, row_bytes);
      }
      copy_async_commit();
    };
    const bool active = first_row + warp_row < p.rows && first_column + warp_column < p.out;  // or there is nothing to keep
    Gemm mine{};
    for (int32_t step = 0; step < kGemmStages - 1; ++step) start(step);
    for (int32_t step = 0; step < steps; ++step) {
      copy_async_wait<kGemmStages - 2>();
      sync_threads();  // this step has come for all; nobody reads the stage that is filled next
      start(step + kGemmStages - 1);
      if (!active) continue;
      const uint32_t stage = static_cast<uint32_t>(step % kGemmStages) * kStage;
      add_product_step<Type, kRowFragments, kColumnFragments>(
          mine.sum, stage, [&](uint32_t m, uint32_t row) { return warp_row + m * 16 + row; }, stage + kOperand, warp_column);
    }
    copy_async_wait<0>();
    if (active) mine.store(p, first_row + warp_row, first_column + warp_column);
  }
};

}  // namespace sla2::cuda
