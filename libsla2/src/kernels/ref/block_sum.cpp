// SPDX-License-Identifier: Apache-2.0
// Block sums, plain.
#include "kernels/block_sum.h"

namespace sla2::kernels::ref {

void block_sum(int64_t count, const float* blocks, int64_t stride, const int32_t* list, int64_t list_size, double sign,
               const double* base, double* out) {
  for (int64_t i = 0; i < count; ++i) {
    double sum = 0;
    for (int64_t j = 0; j < list_size; ++j) sum += static_cast<double>(blocks[list[j] * stride + i]);
    out[i] = (base == nullptr ? 0.0 : base[i]) + sign * sum;
  }
}

}  // namespace sla2::kernels::ref
