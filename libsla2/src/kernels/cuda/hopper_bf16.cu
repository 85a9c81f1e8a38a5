// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/hopper_attend.h"

namespace sla2::cuda {

SLA2_KERNEL(sla2_hopper_bf16_128, kHopperThreads, 1, AttendParams) { Hopper<Products::kBf16, false>::attend(p); }
SLA2_KERNEL(sla2_hopper_bf16_128_linear, kHopperThreads, 1, AttendParams) { Hopper<Products::kBf16, true>::attend(p); }

}  // namespace sla2::cuda
