// SPDX-License-Identifier: Apache-2.0
// Online softmax, plain.
#include "kernels/online_softmax.h"

#include <cmath>
#include <limits>

#include "kernels/panel_gemm.h"

namespace sla2::kernels::ref {

bool online_softmax(int64_t rows, int64_t cols, float* s, int64_t s_row, const float* bias, float* m, float* l, float* rescale) {
  bool any = false;
  for (int64_t r = 0; r < rows; ++r) {
    float* const row = s + r * s_row;
    float top = m[r];
    for (int64_t n = 0; n < cols; ++n) {
      if (bias != nullptr) row[n] += bias[n];
      if (row[n] > top) top = row[n];
    }
    const float origin = top == -std::numeric_limits<float>::infinity() ? 0.0F : top;  // keep -inf - -inf away
    float sum = 0;
    for (int64_t n = 0; n < cols; ++n) {
      row[n] = std::exp2(row[n] - origin);
      sum += row[n];
    }
    rescale[r] = std::exp2(m[r] - origin);
    any = any || rescale[r] != 1.0F;
    l[r] = l[r] * rescale[r] + sum;
    m[r] = top;
  }
  return any;
}

void rescale_rows(int64_t rows, int64_t panels, const float* rescale, float* acc) {
  for (int64_t p = 0; p < panels; ++p)
    for (int64_t r = 0; r < rows; ++r, acc += kPanel)
      for (int64_t n = 0; n < kPanel; ++n) acc[n] *= rescale[r];
}

}  // namespace sla2::kernels::ref
