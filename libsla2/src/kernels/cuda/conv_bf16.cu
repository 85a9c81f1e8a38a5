// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/conv.h"

namespace sla2::cuda {

SLA2_KERNEL(sla2_conv_96, kConvThreads, 3, ConvParams) { Conv<kConvColumns, 2>(p).run(); }
SLA2_KERNEL(sla2_conv_16, kConvThreads, 4, ConvParams) { Conv<kConvFewColumns, 1>(p).run(); }

}  // namespace sla2::cuda
