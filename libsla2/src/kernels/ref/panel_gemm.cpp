// SPDX-License-Identifier: Apache-2.0
// Panel product, plain: the definition, and the version for machines without AVX2. Sums in fp64, rounded once: without FMA
// every fp32 product would be rounded too, and the error would be above that of the AVX2 version.
#include "kernels/panel_gemm.h"

namespace sla2::kernels::ref {

void panel_gemm(int64_t rows, int64_t depth, const float* a, int64_t a_row, int64_t a_step, const float* b, float* c,
                int64_t c_row, bool accumulate) {
  for (int64_t r = 0; r < rows; ++r) {
    float* const out = c + r * c_row;
    double sum[kPanel] = {};
    if (accumulate)
      for (int64_t n = 0; n < kPanel; ++n) sum[n] = static_cast<double>(out[n]);
    for (int64_t k = 0; k < depth; ++k) {
      const double x = static_cast<double>(a[r * a_row + k * a_step]);
      for (int64_t n = 0; n < kPanel; ++n) sum[n] += x * static_cast<double>(b[k * kPanel + n]);
    }
    for (int64_t n = 0; n < kPanel; ++n) out[n] = static_cast<float>(sum[n]);
  }
}

}  // namespace sla2::kernels::ref
