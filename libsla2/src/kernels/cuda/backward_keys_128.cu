// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/backward_keys.h"

namespace sla2::cuda {

SLA2_KERNEL(sla2_backward_keys_128, kKeyThreads, 2, KeysParams) { key_gradients<128>(p); }

}  // namespace sla2::cuda
