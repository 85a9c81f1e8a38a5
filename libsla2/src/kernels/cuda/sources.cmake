# SPDX-License-Identifier: Apache-2.0
# Files with kernels: the mma.sync family, and hopper_* with wgmma. Read by the CUDA build and by tests/cuda_emulator.
set(CUDA_KERNEL_SOURCES pool.cu pack.cu totals.cu route.cu summary.cu)
list(APPEND CUDA_KERNEL_SOURCES trial.cu)  # single instructions, for measuring (tests/gpu)
foreach(products bf16 int8 fp8 fp8h)
  foreach(width 64 128)
    list(APPEND CUDA_KERNEL_SOURCES attend_${products}_${width}.cu)
  endforeach()
endforeach()
# backward
list(APPEND CUDA_KERNEL_SOURCES backward_lists.cu backward_rows.cu)
foreach(part queries keys linear)
  foreach(width 64 128)
    list(APPEND CUDA_KERNEL_SOURCES backward_${part}_${width}.cu)
  endforeach()
endforeach()
list(APPEND CUDA_KERNEL_SOURCES hopper_bf16.cu hopper_int8.cu hopper_fp8.cu hopper_trial.cu)  # hopper_*: compiled for sm_90a alone
# The runner: products and rows.
list(APPEND CUDA_KERNEL_SOURCES gemm_bf16.cu gemm_int8.cu model_rows.cu)
list(APPEND CUDA_KERNEL_SOURCES text_rows.cu text_attention.cu)  # the text encoder
list(APPEND CUDA_KERNEL_SOURCES conv_bf16.cu vae_rows.cu)  # the VAE
