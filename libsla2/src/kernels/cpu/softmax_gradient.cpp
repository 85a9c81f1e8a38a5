// SPDX-License-Identifier: Apache-2.0
// Elementwise step of attention's backward, AVX2. The tile is in L2; one pass.
#include "kernels/softmax_gradient.h"

#include "kernels/cpu/exp2.h"
#include "kernels/panel_gemm.h"

namespace sla2::kernels::avx2 {

void softmax_gradient(const SoftmaxGradient& a) {
  const Tag tag;
  constexpr int64_t kLanes = 8;
  const Vec log_scale = hn::Set(tag, a.log_scale), scale = hn::Set(tag, a.scale);
  const int64_t end = panels_of(a.cols) * kPanel;
  for (int64_t r = 0; r < a.rows; ++r) {
    float *const s = a.s + r * a.stride, *const d = a.d + r * a.stride;
    const Vec top = hn::Set(tag, a.top[r]), weight = hn::Set(tag, a.weight[r]), mean = hn::Set(tag, a.mean[r]);
    for (int64_t n = 0; n < end; n += kLanes) {
      const Vec x = hn::LoadU(tag, s + n);
      const Vec logit =
          a.bias == nullptr ? hn::MulSub(x, log_scale, top) : hn::Sub(hn::MulAdd(x, log_scale, hn::LoadU(tag, a.bias + n)), top);
      const Vec p = hn::Mul(weight, exp2_nonpositive(logit));
      hn::StoreU(p, tag, s + n);
      hn::StoreU(hn::Mul(scale, hn::Mul(p, hn::Sub(hn::LoadU(tag, d + n), mean))), tag, d + n);
    }
    for (int64_t n = a.cols; n < end; ++n) s[n] = d[n] = 0;
  }
}

}  // namespace sla2::kernels::avx2
