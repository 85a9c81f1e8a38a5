// SPDX-License-Identifier: Apache-2.0
#include "kernels/gradient_rows.h"

#include <algorithm>

namespace sla2::kernels::ref {

void row_dots(int64_t rows, int64_t dim, const float* x, int64_t x_row, const float* y, int64_t y_row, double* out) {
  for (int64_t r = 0; r < rows; ++r, x += x_row, y += y_row) {
    out[r] = 0;
    for (int64_t c = 0; c < dim; ++c) out[r] += static_cast<double>(x[c]) * static_cast<double>(y[c]);
  }
}

void through_features(int64_t rows, int64_t dim, const float* phi, const float* d_phi, int64_t row, float* out) {
  for (int64_t r = 0; r < rows; ++r, phi += dim, d_phi += row, out += row) {
    double mean = 0;
    for (int64_t c = 0; c < dim; ++c) mean += static_cast<double>(phi[c]) * static_cast<double>(d_phi[c]);
    for (int64_t c = 0; c < dim; ++c) out[c] = phi[c] * (d_phi[c] - static_cast<float>(mean));
    std::fill(out + dim, out + row, 0.0F);
  }
}

}  // namespace sla2::kernels::ref
