# SPDX-License-Identifier: Apache-2.0
# Convolutions on blocked frames and the passes between them (used by vae/).
list(APPEND KERNEL_SOURCES frame.cpp rms_silu.cpp winograd.cpp cpu/conv.cpp ref/conv.cpp ref/rms_silu.cpp ref/winograd.cpp)
list(APPEND KERNEL_AVX2_SOURCES cpu/rms_silu.cpp)
list(APPEND KERNEL_AVX512_BF16_SOURCES cpu/winograd.cpp cpu/rms_silu_bf16.cpp)
