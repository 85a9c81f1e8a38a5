// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/attend.h"

namespace sla2::cuda {

SLA2_KERNEL(sla2_attend_fp8h_128, kMaxThreads, 1, AttendParams) { attend<128, Products::kInt8Fp8Half, false>(p); }
SLA2_KERNEL(sla2_attend_fp8h_128_linear, kMaxThreads, 1, AttendParams) { attend<128, Products::kInt8Fp8Half, true>(p); }

}  // namespace sla2::cuda
