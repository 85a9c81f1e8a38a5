// SPDX-License-Identifier: Apache-2.0
// Numbers on their way into products as two bf16 each.
#pragma once
#include "kernels/cuda/rows.h"
#include "kernels/cuda/text_params.h"

namespace sla2::cuda {

struct SplitPair {
  uint32_t high, low;  ///< two bf16 each, the first in the lower half
};
/// What is not finite stays so: infinity - infinity is NaN.
SLA2_DEVICE SplitPair split(Pair v) {
  const uint32_t high = pack_bf16(v.x, v.y);
  return {high, pack_bf16(v.x - from_bf16(high & 0xFFFFU), v.y - bits_to_float(high & 0xFFFF0000U))};
}

}  // namespace sla2::cuda
