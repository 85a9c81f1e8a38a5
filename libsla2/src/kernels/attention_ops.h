// SPDX-License-Identifier: Apache-2.0
// The table of attention's kernels for one instruction set. Passes outside the table (block_gather.h, top_blocks.h,
// merge_rows.h) are O(N·D) beside O(N²·D) and exist once.
#pragma once
#include "core/caps.h"
#include "kernels/attend_bf16.h"
#include "kernels/block_sum.h"
#include "kernels/feature_map.h"
#include "kernels/gemm_bf16.h"
#include "kernels/online_softmax.h"
#include "kernels/panel_gemm.h"
#include "kernels/route_scores.h"
#include "kernels/softmax_gradient.h"

namespace sla2::kernels {

struct AttentionOps {
  PanelGemm panel_gemm;
  OnlineSoftmax online_softmax;
  RescaleRows rescale_rows;
  FeatureMap feature_map;
  RouteScores route_scores;
  BlockSum block_sum;
  AttendBf16Op attend_bf16;
  PackKeysBf16 pack_keys_bf16;
  PackValuesBf16 pack_values_bf16;
  NarrowBf16 narrow_rows_bf16;
  SoftmaxGradientOp softmax_gradient;  ///< backward
  SoftmaxGradientBf16 softmax_gradient_bf16;
  GemmBf16Op gemm_bf16;
};

/// The best version of every op that runs on `isa`.
[[nodiscard]] AttentionOps attention_ops(Isa isa);

}  // namespace sla2::kernels
