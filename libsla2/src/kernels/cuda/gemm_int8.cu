// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/gemm.h"

namespace sla2::cuda {

SLA2_KERNEL(sla2_gemm_int8, kGemmThreads, 2, GemmParams) { Gemm<ProductInt8>::run(p); }

}  // namespace sla2::cuda
