# SPDX-License-Identifier: Apache-2.0
# The ops of attention: plain versions in ref/, vector versions in cpu/.
list(APPEND KERNEL_SOURCES attention_ops.cpp ref/block_gather.cpp ref/merge_rows.cpp ref/top_blocks.cpp ref/panel_gemm.cpp ref/attend_bf16.cpp
     ref/attend_int8.cpp ref/attend_fp8.cpp ref/linear_bf16.cpp ref/online_softmax.cpp ref/feature_map.cpp ref/route_scores.cpp ref/block_sum.cpp)
list(APPEND KERNEL_AVX2_SOURCES cpu/tiles_avx2.cpp cpu/rows_avx2.cpp cpu/pack_int8_avx2.cpp)
list(APPEND KERNEL_AVX512_SOURCES cpu/tiles_avx512.cpp cpu/rows_avx512.cpp)
list(APPEND KERNEL_AVX512_VNNI_SOURCES cpu/attend_int8_vnni.cpp)
list(APPEND KERNEL_AVX512_BF16_SOURCES cpu/attend_bf16.cpp cpu/attend_int8.cpp cpu/linear_bf16.cpp cpu/features_bf16.cpp)
# backward
list(APPEND KERNEL_SOURCES ref/softmax_gradient.cpp ref/gradient_rows.cpp ref/gemm_bf16.cpp)
list(APPEND KERNEL_AVX512_BF16_SOURCES cpu/gemm_bf16.cpp cpu/softmax_gradient_bf16.cpp)
