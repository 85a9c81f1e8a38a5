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
  if (keep >= count) return;
  std::nth_element(order, order + keep, order + count, before);
  // The first that is not kept tells the two parts apart; one pass over the indices then leaves both ascending.
  const int32_t first_out = order[keep];
  int32_t *kept = order, *rest = order + keep;
  for (int32_t j = 0; j < static_cast<int32_t>(count); ++j) *(before(j, first_out) ? kept++ : rest++) = j;
}

}  // namespace sla2::kernels
