// SPDX-License-Identifier: Apache-2.0
#include "kernels/attention_ops.h"

namespace sla2::kernels {

AttentionOps attention_ops(Isa isa) {
  AttentionOps ops{};
  ops.panel_gemm = ref::panel_gemm;
  ops.online_softmax = ref::online_softmax;
  ops.rescale_rows = ref::rescale_rows;
  ops.feature_map = ref::feature_map;
  ops.route_scores = ref::route_scores;
  ops.load_rows = ref::load_rows;
  ops.shift_rows = ref::shift_rows;
  ops.mean_rows = ref::mean_rows;
  ops.merge_rows = ref::merge_rows;
  ops.block_sum = ref::block_sum;
  ops.attend_bf16 = ref::attend_bf16;
  ops.pack_keys_bf16 = ref::pack_keys_bf16;
  ops.pack_values_bf16 = ref::pack_values_bf16;
  ops.narrow_rows_bf16 = ref::narrow_rows_bf16;
  ops.features_bf16 = ref::features_bf16;
  ops.key_features_bf16 = ref::key_features_bf16;
  ops.key_state_bf16 = ref::key_state_bf16;
  ops.sum_states_bf16 = ref::sum_states_bf16;
  ops.apply_state_bf16 = ref::apply_state_bf16;
  ops.feature_sums_bf16 = ref::feature_sums_bf16;
  ops.attend_int8 = ref::attend_int8;
  ops.quantise_rows_int8 = ref::quantise_rows_int8;
  ops.pack_keys_int8 = ref::pack_keys_int8;
  ops.attend_fp8 = ref::attend_fp8;
  ops.largest_per_channel = ref::largest_per_channel;
  ops.pack_values_fp8 = ref::pack_values_fp8;
  ops.softmax_gradient = ref::softmax_gradient;
  ops.softmax_gradient_bf16 = ref::softmax_gradient_bf16;
  ops.gemm_bf16 = ref::gemm_bf16;
  ops.row_dots = ref::row_dots;
  ops.through_features = ref::through_features;
  if (isa < Isa::kAvx2) return ops;
  ops.panel_gemm = avx2::panel_gemm;
  ops.online_softmax = avx2::online_softmax;
  ops.rescale_rows = avx2::rescale_rows;
  ops.feature_map = avx2::feature_map;
  ops.route_scores = avx2::route_scores;
  ops.load_rows = avx2::load_rows;
  ops.shift_rows = avx2::shift_rows;
  ops.mean_rows = avx2::mean_rows;
  ops.merge_rows = avx2::merge_rows;
  ops.block_sum = avx2::block_sum;
  ops.attend_int8 = avx2::attend_int8;
  ops.quantise_rows_int8 = avx2::quantise_rows_int8;
  ops.pack_keys_int8 = avx2::pack_keys_int8;
  ops.pack_values_bf16 = avx2::pack_values_bf16;
  ops.softmax_gradient = avx2::softmax_gradient;
  ops.row_dots = avx2::row_dots;
  ops.through_features = avx2::through_features;
  if (isa < Isa::kAvx512) return ops;
  ops.panel_gemm = avx512::panel_gemm;
  ops.online_softmax = avx512::online_softmax;
  ops.rescale_rows = avx512::rescale_rows;
  ops.feature_map = avx512::feature_map;
  ops.block_sum = avx512::block_sum;
  ops.attend_int8 = avx512::attend_int8;
  ops.softmax_gradient = avx512::softmax_gradient;
  ops.route_scores = avx512::route_scores;
  ops.load_rows = avx512::load_rows;
  ops.shift_rows = avx512::shift_rows;
  ops.mean_rows = avx512::mean_rows;
  ops.merge_rows = avx512::merge_rows;
  ops.row_dots = avx512::row_dots;
  ops.through_features = avx512::through_features;
  if (isa < Isa::kAvx512Vnni) return ops;
  ops.attend_int8 = avx512_vnni::attend_int8;
  if (isa < Isa::kAvx512Bf16) return ops;
  ops.attend_bf16 = avx512_bf16::attend_bf16;
  ops.pack_keys_bf16 = avx512_bf16::pack_keys_bf16;
  ops.pack_values_bf16 = avx512_bf16::pack_values_bf16;
  ops.narrow_rows_bf16 = avx512_bf16::narrow_rows_bf16;
  ops.features_bf16 = avx512_bf16::features_bf16;
  ops.key_features_bf16 = avx512_bf16::key_features_bf16;
  ops.key_state_bf16 = avx512_bf16::key_state_bf16;
  ops.sum_states_bf16 = avx512_bf16::sum_states_bf16;
  ops.apply_state_bf16 = avx512_bf16::apply_state_bf16;
  ops.feature_sums_bf16 = avx512_bf16::feature_sums_bf16;
  ops.attend_int8 = avx512_bf16::attend_int8;
  ops.quantise_rows_int8 = avx512_bf16::quantise_rows_int8;
  ops.pack_keys_int8 = avx512_bf16::pack_keys_int8;
  ops.softmax_gradient_bf16 = avx512_bf16::softmax_gradient_bf16;
  ops.gemm_bf16 = avx512_bf16::gemm_bf16;
  return ops;
}

}  // namespace sla2::kernels
