// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/hopper_attend.h"

namespace sla2::cuda {

SLA2_KERNEL(sla2_hopper_int8_128, kHopperThreads, 1, AttendParams) { Hopper<Products::kInt8, false>::attend(p); }
SLA2_KERNEL(sla2_hopper_int8_128_linear, kHopperThreads, 1, AttendParams) { Hopper<Products::kInt8, true>::attend(p); }

}  // namespace sla2::cuda
