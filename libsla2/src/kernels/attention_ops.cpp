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
  ops.block_sum = ref::block_sum;
  ops.attend_bf16 = ref::attend_bf16;
  ops.pack_keys_bf16 = ref::pack_keys_bf16;
  ops.pack_values_bf16 = ref::pack_values_bf16;
  ops.narrow_rows_bf16 = ref::narrow_rows_bf16;
  ops.softmax_gradient = ref::softmax_gradient;
  ops.softmax_gradient_bf16 = ref::softmax_gradient_bf16;
  ops.gemm_bf16 = ref::gemm_bf16;
  if (isa < Isa::kAvx2) return ops;
  ops.panel_gemm = avx2::panel_gemm;
  ops.online_softmax = avx2::online_softmax;
  ops.rescale_rows = avx2::rescale_rows;
  ops.feature_map = avx2::feature_map;
  ops.route_scores = avx2::route_scores;
  ops.block_sum = avx2::block_sum;
  ops.softmax_gradient = avx2::softmax_gradient;
  if (isa < Isa::kAvx512Bf16) return ops;
  ops.attend_bf16 = avx512_bf16::attend_bf16;
  ops.pack_keys_bf16 = avx512_bf16::pack_keys_bf16;
  ops.pack_values_bf16 = avx512_bf16::pack_values_bf16;
  ops.narrow_rows_bf16 = avx512_bf16::narrow_rows_bf16;
  ops.softmax_gradient_bf16 = avx512_bf16::softmax_gradient_bf16;
  ops.gemm_bf16 = avx512_bf16::gemm_bf16;
  return ops;
}

}  // namespace sla2::kernels
