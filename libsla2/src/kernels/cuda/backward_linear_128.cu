// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/backward_linear.h"
#include "kernels/cuda/backward_linear_keys.h"

namespace sla2::cuda {

SLA2_KERNEL(sla2_backward_linear_128, kMaxThreads, 1, LinearParams) { linear_queries<128>(p); }
SLA2_KERNEL(sla2_backward_linear_keys_128, kMaxThreads, 1, LinearKeysParams) { linear_keys<128>(p); }

}  // namespace sla2::cuda
