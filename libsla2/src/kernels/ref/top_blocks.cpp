// SPDX-License-Identifier: Apache-2.0
#include "kernels/top_blocks.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace sla2::kernels {

void top_blocks(int64_t count, int64_t keep, const double* scores, int32_t* order) {
  std::iota(order, order + count, 0);
  const auto before = [scores](int32_t x, int32_t y) {
    const bool x_nan = std::isnan(scores[x]), y_nan = std::isnan(scores[y]);
    if (x_nan != y_nan) return x_nan;
    if (!x_nan && scores[x] != scores[y]) return scores[x] > scores[y];
    return x < y;  // a strict order even among equals, so the result is unique
  };
  if (keep < count) std::nth_element(order, order + keep, order + count, before);
  std::sort(order, order + keep);
  std::sort(order + keep, order + count);
}

}  // namespace sla2::kernels
