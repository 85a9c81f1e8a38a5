// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/gemm.h"

namespace sla2::cuda {

SLA2_KERNEL(sla2_gemm_bf16, kGemmThreads, 2, GemmParams) { Gemm<ProductBf16>::run(p); }

}  // namespace sla2::cuda
