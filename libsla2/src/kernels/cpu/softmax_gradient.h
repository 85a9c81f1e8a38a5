// SPDX-License-Identifier: Apache-2.0
// Elementwise step of attention's backward for vectors of N floats, for AVX2 and AVX-512 files only. The tile is in L2; one pass.
#pragma once
#include "kernels/cpu/exp2.h"
#include "kernels/panel_gemm.h"
#include "kernels/softmax_gradient.h"

namespace sla2::kernels {
namespace {

template <size_t N>
void softmax_gradient_with(const SoftmaxGradient& a) {
  const hn::FixedTag<float, N> tag;
  constexpr int64_t kLanes = static_cast<int64_t>(N);
  const auto log_scale = hn::Set(tag, a.log_scale), scale = hn::Set(tag, a.scale);
  const int64_t end = panels_of(a.cols) * kPanel;
  for (int64_t r = 0; r < a.rows; ++r) {
    float *const s = a.s + r * a.stride, *const d = a.d + r * a.stride;
    const auto top = hn::Set(tag, a.top[r]), weight = hn::Set(tag, a.weight[r]), mean = hn::Set(tag, a.mean[r]);
    for (int64_t n = 0; n < end; n += kLanes) {
      const auto x = hn::LoadU(tag, s + n);
      const auto logit =
          a.bias == nullptr ? hn::MulSub(x, log_scale, top) : hn::Sub(hn::MulAdd(x, log_scale, hn::LoadU(tag, a.bias + n)), top);
      const auto p = hn::Mul(weight, exp2_nonpositive(logit));
      hn::StoreU(p, tag, s + n);
      hn::StoreU(hn::Mul(scale, hn::Mul(p, hn::Sub(hn::LoadU(tag, d + n), mean))), tag, d + n);
    }
    for (int64_t n = a.cols; n < end; ++n) s[n] = d[n] = 0;
  }
}

}  // namespace
}  // namespace sla2::kernels
