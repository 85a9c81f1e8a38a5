// SPDX-License-Identifier: Apache-2.0
// Router scores, AVX2: 8 key blocks at a time, two fp64 accumulators.
#include "kernels/route_scores.h"

#include <hwy/highway.h>

namespace sla2::kernels::avx2 {

void route_scores(int64_t dim, int64_t key_row, const float* q, const float* keys, double scale, double* scores) {
  namespace hn = hwy::HWY_NAMESPACE;
  const hn::FixedTag<double, 4> tag;
  const hn::FixedTag<float, 4> half;
  constexpr int64_t kLanes = 4;
  static_assert(kRouteLanes == 2 * kLanes, "two accumulators");
  const auto factor = hn::Set(tag, scale);
  for (int64_t j = 0; j < key_row; j += kRouteLanes) {
    auto sum0 = hn::Zero(tag), sum1 = hn::Zero(tag);
    for (int64_t c = 0; c < dim; ++c) {
      const float* const at = keys + c * key_row + j;
      const auto x = hn::Set(tag, static_cast<double>(q[c]));
      sum0 = hn::MulAdd(x, hn::PromoteTo(tag, hn::LoadU(half, at)), sum0);
      sum1 = hn::MulAdd(x, hn::PromoteTo(tag, hn::LoadU(half, at + kLanes)), sum1);
    }
    hn::StoreU(hn::Mul(factor, sum0), tag, scores + j);
    hn::StoreU(hn::Mul(factor, sum1), tag, scores + j + kLanes);
  }
}

}  // namespace sla2::kernels::avx2
