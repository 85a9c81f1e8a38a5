// SPDX-License-Identifier: Apache-2.0
// The table of attention's kernels for one instruction set. What is outside the table (packing in fp32, top_blocks.h) exists
// once.
#pragma once
#include "core/caps.h"
#include "kernels/attend_bf16.h"
#include "kernels/attend_fp8.h"
#include "kernels/attend_int8.h"
#include "kernels/block_gather.h"
#include "kernels/block_sum.h"
#include "kernels/feature_map.h"
#include "kernels/gemm_bf16.h"
#include "kernels/gradient_rows.h"
#include "kernels/linear_bf16.h"
#include "kernels/merge_rows.h"
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
  LoadRows load_rows;
  ShiftRows shift_rows;
  MeanRows mean_rows;
  MergeRows merge_rows;
  BlockSum block_sum;
  AttendBf16Op attend_bf16;
  PackKeysBf16 pack_keys_bf16;
  PackValuesBf16 pack_values_bf16;
  NarrowBf16 narrow_rows_bf16;
  FeaturesBf16 features_bf16;
  KeyFeaturesBf16 key_features_bf16;
  KeyStateBf16 key_state_bf16;
  SumStatesBf16Op sum_states_bf16;
  ApplyStateBf16 apply_state_bf16;
  FeatureSumsBf16 feature_sums_bf16;
  AttendInt8Op attend_int8;
  QuantiseRowsInt8 quantise_rows_int8;
  PackKeysInt8 pack_keys_int8;
  AttendFp8Op attend_fp8;
  LargestPerChannel largest_per_channel;
  PackValuesFp8 pack_values_fp8;
  SoftmaxGradientOp softmax_gradient;  ///< backward
  SoftmaxGradientBf16 softmax_gradient_bf16;
  GemmBf16Op gemm_bf16;
  RowDots row_dots;
  ThroughFeatures through_features;
};

/// Does `isa` have bf16 products of its own? Plain code has, as the definition of what the others do.
[[nodiscard]] constexpr bool multiplies_bf16(Isa isa) { return isa == Isa::kScalar || isa >= Isa::kAvx512Bf16; }

/// The best version of every op that runs on `isa`.
[[nodiscard]] AttentionOps attention_ops(Isa isa);

}  // namespace sla2::kernels
