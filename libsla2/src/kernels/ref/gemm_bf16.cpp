// SPDX-License-Identifier: Apache-2.0
// Small product of bf16 pairs, plain.
#include "kernels/gemm_bf16.h"

namespace sla2::kernels::ref {

void gemm_bf16(const GemmBf16& g) {
  for (int64_t r = 0; r < g.rows; ++r)
    for (int64_t n = 0; n < g.cols; ++n) {
      float sum = g.accumulate ? g.c[r * g.c_row + n] : 0.0F;
      for (int64_t k = 0; k < g.depth; ++k)
        for (int64_t half = 0; half < 2; ++half)
          sum += bf16_to_f32(g.a[2 * (r * g.a_row + k * g.a_step) + half]) * bf16_to_f32(g.b[2 * (k * g.b_line + n) + half]);
      g.c[r * g.c_row + n] = sum;
    }
}

}  // namespace sla2::kernels::ref
