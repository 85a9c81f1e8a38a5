// SPDX-License-Identifier: Apache-2.0
// Feature map, AVX2.
#include "kernels/feature_map.h"

#include "kernels/cpu/exp2.h"

namespace sla2::kernels::avx2 {

void feature_map(int64_t rows, int64_t dim, float* x) {
  const Tag tag;
  constexpr int64_t kLanes = 8;
  const Vec log2e = hn::Set(tag, 0x1.715476p+0F);
  for (int64_t r = 0; r < rows; ++r, x += dim) {
    Vec top = hn::LoadU(tag, x);
    for (int64_t c = kLanes; c < dim; c += kLanes) top = hn::Max(hn::LoadU(tag, x + c), top);
    top = hn::MaxOfLanes(tag, top);
    Vec sum = hn::Zero(tag);
    for (int64_t c = 0; c < dim; c += kLanes) {
      const Vec e = exp2_nonpositive(hn::Mul(hn::Sub(hn::LoadU(tag, x + c), top), log2e));
      hn::StoreU(e, tag, x + c);
      sum = hn::Add(sum, e);
    }
    const Vec scale = hn::Div(hn::Set(tag, 1.0F), hn::SumOfLanes(tag, sum));
    for (int64_t c = 0; c < dim; c += kLanes) hn::StoreU(hn::Mul(hn::LoadU(tag, x + c), scale), tag, x + c);
  }
}

}  // namespace sla2::kernels::avx2
