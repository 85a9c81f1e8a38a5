// SPDX-License-Identifier: Apache-2.0
// Elementwise step of attention's backward, plain.
#include "kernels/softmax_gradient.h"

#include <algorithm>
#include <cmath>

#include "kernels/panel_gemm.h"

namespace sla2::kernels::ref {

void softmax_gradient(const SoftmaxGradient& a) {
  for (int64_t r = 0; r < a.rows; ++r) {
    float *const s = a.s + r * a.stride, *const d = a.d + r * a.stride;
    for (int64_t n = 0; n < a.cols; ++n) {
      const float logit = a.log_scale * s[n] + (a.bias == nullptr ? 0.0F : a.bias[n]);
      s[n] = a.weight[r] * std::exp2(logit - a.top[r]);
      d[n] = a.scale * (s[n] * (d[n] - a.mean[r]));
    }
    const int64_t end = panels_of(a.cols) * kPanel;
    std::fill(s + a.cols, s + end, 0.0F);
    std::fill(d + a.cols, d + end, 0.0F);
  }
}

void softmax_gradient_bf16(const SoftmaxGradient& a, const GradientPairs& out) {
  softmax_gradient(a);
  const int64_t end = panels_of(a.cols) * kPanel;
  for (int64_t r = 0; r < a.rows + a.rows % 2; ++r)
    for (int64_t n = 0; n < end; ++n) {
      const int64_t at = r * a.stride + n, pair = (r / 2 * a.stride + n) * 2 + r % 2;
      const bool real = r < a.rows;
      out.p_pairs[pair] = f32_to_bf16(real ? a.s[at] : 0.0F);
      out.ds_pairs[pair] = f32_to_bf16(real ? a.d[at] : 0.0F);
      if (real) out.ds[at] = f32_to_bf16(a.d[at]);
    }
}

}  // namespace sla2::kernels::ref
