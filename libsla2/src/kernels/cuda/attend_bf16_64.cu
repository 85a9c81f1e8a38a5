// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/attend.h"

namespace sla2::cuda {

SLA2_KERNEL(sla2_attend_bf16_64, kMaxThreads, 1, AttendParams) { attend<64, Products::kBf16, false>(p); }
SLA2_KERNEL(sla2_attend_bf16_64_linear, kMaxThreads, 1, AttendParams) { attend<64, Products::kBf16, true>(p); }

}  // namespace sla2::cuda
