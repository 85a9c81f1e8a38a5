// SPDX-License-Identifier: Apache-2.0
// Router scores, plain.
#include "kernels/route_scores.h"

namespace sla2::kernels::ref {

void route_scores(int64_t dim, int64_t key_row, const float* q, const float* keys, double scale, double* scores) {
  for (int64_t j = 0; j < key_row; ++j) {
    double sum = 0;
    for (int64_t c = 0; c < dim; ++c) sum += static_cast<double>(q[c]) * static_cast<double>(keys[c * key_row + j]);
    scores[j] = scale * sum;
  }
}

}  // namespace sla2::kernels::ref
