// SPDX-License-Identifier: Apache-2.0
// SoftTop-k in the forward direction: M = σ(R/τ + λ), λ such that the row sums to k. ΣM rises with λ, so Newton's steps are kept
// inside a bracket that holds for any row: at its ends every M is at most, or at least, k / T_n.
#include <algorithm>
#include <cmath>
#include <limits>

#include "attention/forward.h"

namespace sla2::attention {

void soft_top_k(int64_t count, int64_t keep, double tau, const double* scores, double* mask) {
  if (keep == count) {
    std::fill_n(mask, count, 1.0);
    return;
  }
  constexpr int kSteps = 200;  // bisection alone needs 60; Newton about six
  constexpr double kEnough = 1e-14;
  const auto target = static_cast<double>(keep);
  const double share = target / static_cast<double>(count), middle = std::log(share / (1 - share));
  const auto [least, most] = std::minmax_element(scores, scores + count);
  double low = middle - *most / tau, high = middle - *least / tau, shift = (low + high) / 2;
  for (int step = 0; step < kSteps; ++step) {
    double sum = 0, slope = 0;
    for (int64_t j = 0; j < count; ++j) {
      const double m = 1 / (1 + std::exp(-(scores[j] / tau + shift)));
      mask[j] = m;
      sum += m;
      slope += m * (1 - m);
    }
    if (!(std::abs(sum - target) > kEnough * target) || !(high - low > std::numeric_limits<double>::epsilon() * std::abs(shift)))
      return;
    (sum < target ? low : high) = shift;
    const double newton = shift + (target - sum) / slope;
    shift = newton > low && newton < high ? newton : (low + high) / 2;
  }
}

}  // namespace sla2::attention
