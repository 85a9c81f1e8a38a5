# SPDX-License-Identifier: Apache-2.0
# Files with kernels; one family (mma.sync) so far. Read by the CUDA build and by tests/cuda_emulator.
set(CUDA_KERNEL_SOURCES pool.cu pack.cu totals.cu route.cu summary.cu)
foreach(products bf16 int8 fp8)
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
