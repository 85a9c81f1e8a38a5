// SPDX-License-Identifier: Apache-2.0
// Which module (file) holds a kernel.
#pragma once
#include <string_view>

namespace sla2::cuda {

struct KernelHome {
  const char *kernel, *module;
};
inline constexpr KernelHome kKernels[] = {
    {"sla2_trial", "trial"},
    {"sla2_hopper_trial", "hopper_trial"},
    {"sla2_hopper_bf16_128", "hopper_bf16"},
    {"sla2_hopper_bf16_128_linear", "hopper_bf16"},
    {"sla2_hopper_int8_128", "hopper_int8"},
    {"sla2_hopper_int8_128_linear", "hopper_int8"},
    {"sla2_hopper_fp8_128", "hopper_fp8"},
    {"sla2_hopper_fp8_128_linear", "hopper_fp8"},
    {"sla2_pool", "pool"},
    {"sla2_centre", "pool"},
    {"sla2_pack", "pack"},
    {"sla2_totals_64", "totals"},
    {"sla2_totals_128", "totals"},
    {"sla2_sum_totals", "totals"},
    {"sla2_route", "route"},
    {"sla2_rest", "route"},
    {"sla2_likeness", "route"},
    {"sla2_summary", "summary"},
    {"sla2_list_all", "summary"},
    {"sla2_attend_bf16_64", "attend_bf16_64"},
    {"sla2_attend_bf16_64_linear", "attend_bf16_64"},
    {"sla2_attend_bf16_128", "attend_bf16_128"},
    {"sla2_attend_bf16_128_linear", "attend_bf16_128"},
    {"sla2_attend_int8_64", "attend_int8_64"},
    {"sla2_attend_int8_64_linear", "attend_int8_64"},
    {"sla2_attend_int8_128", "attend_int8_128"},
    {"sla2_attend_int8_128_linear", "attend_int8_128"},
    {"sla2_attend_fp8_64", "attend_fp8_64"},
    {"sla2_attend_fp8_64_linear", "attend_fp8_64"},
    {"sla2_attend_fp8_128", "attend_fp8_128"},
    {"sla2_attend_fp8_128_linear", "attend_fp8_128"},
    {"sla2_attend_fp8h_64", "attend_fp8h_64"},
    {"sla2_attend_fp8h_64_linear", "attend_fp8h_64"},
    {"sla2_attend_fp8h_128", "attend_fp8h_128"},
    {"sla2_attend_fp8h_128_linear", "attend_fp8h_128"},
    {"sla2_transpose_count", "backward_lists"},
    {"sla2_transpose_scan", "backward_lists"},
    {"sla2_transpose_fill", "backward_lists"},
    {"sla2_backward_given", "backward_rows"},
    {"sla2_backward_columns", "backward_rows"},
    {"sla2_backward_totals", "backward_rows"},
    {"sla2_backward_store", "backward_rows"},
    {"sla2_backward_mix", "backward_rows"},
    {"sla2_backward_zero", "backward_rows"},
    {"sla2_backward_statistics_64", "backward_queries_64"},
    {"sla2_backward_queries_64", "backward_queries_64"},
    {"sla2_backward_keys_64", "backward_keys_64"},
    {"sla2_backward_linear_64", "backward_linear_64"},
    {"sla2_backward_linear_keys_64", "backward_linear_64"},
    {"sla2_backward_statistics_128", "backward_queries_128"},
    {"sla2_backward_queries_128", "backward_queries_128"},
    {"sla2_backward_keys_128", "backward_keys_128"},
    {"sla2_backward_linear_128", "backward_linear_128"},
    {"sla2_backward_linear_keys_128", "backward_linear_128"},
    {"sla2_gemm_bf16", "gemm_bf16"},
    {"sla2_gemm_int8", "gemm_int8"},
    {"sla2_layer_norm", "model_rows"},
    {"sla2_quantise", "model_rows"},
    {"sla2_rms_norm", "model_rows"},
    {"sla2_modulate", "model_rows"},
    {"sla2_text_norm", "text_rows"},
    {"sla2_text_gate", "text_rows"},
    {"sla2_text_attention", "text_attention"},
    {"sla2_conv_96", "conv_bf16"},
    {"sla2_conv_16", "conv_bf16"},
    {"sla2_pixel_norm", "vae_rows"},
    {"sla2_softmax_rows", "vae_rows"},
    {"sla2_planes", "vae_rows"},
};

/// Null where there is no such kernel.
[[nodiscard]] constexpr const char* module_of(std::string_view kernel) {
  for (const KernelHome& home : kKernels)
    if (kernel == home.kernel) return home.module;
  return nullptr;
}

}  // namespace sla2::cuda
