// SPDX-License-Identifier: Apache-2.0
// Feature map, plain.
#include "kernels/feature_map.h"

#include <algorithm>
#include <cmath>

namespace sla2::kernels::ref {

void feature_map(int64_t rows, int64_t dim, float* x) {
  for (int64_t r = 0; r < rows; ++r, x += dim) {
    const float top = *std::max_element(x, x + dim);
    float sum = 0;
    for (int64_t c = 0; c < dim; ++c) sum += x[c] = std::exp(x[c] - top);
    const float scale = 1.0F / sum;
    for (int64_t c = 0; c < dim; ++c) x[c] *= scale;
  }
}

}  // namespace sla2::kernels::ref
