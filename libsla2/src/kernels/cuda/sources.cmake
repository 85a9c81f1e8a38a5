# SPDX-License-Identifier: Apache-2.0
# Files with kernels; one family (mma.sync) so far. Read by the CUDA build and by tests/cuda_emulator.
set(CUDA_KERNEL_SOURCES pool.cu pack.cu totals.cu route.cu)
foreach(products bf16 int8 fp8)
  foreach(width 64 128)
    list(APPEND CUDA_KERNEL_SOURCES attend_${products}_${width}.cu)
  endforeach()
endforeach()
# The runner: products and rows.
list(APPEND CUDA_KERNEL_SOURCES gemm_bf16.cu gemm_int8.cu model_rows.cu)
