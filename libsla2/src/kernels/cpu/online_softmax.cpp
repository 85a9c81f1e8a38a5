// SPDX-License-Identifier: Apache-2.0
// Online softmax, AVX2: one pass for the row maximum, one for 2^x and the sum; the tile is in L1/L2 both times.
#include "kernels/online_softmax.h"

#include "kernels/cpu/exp2.h"
#include "kernels/panel_gemm.h"

namespace sla2::kernels::avx2 {

bool online_softmax(int64_t rows, int64_t cols, float* s, int64_t s_row, const float* bias, float* m, float* l, float* rescale) {
  const Tag tag;
  constexpr int64_t kLanes = 8;
  static_assert(kPanel == 2 * kLanes, "two vectors per panel");
  constexpr float kNone = -__builtin_inff();
  bool any = false;
  for (int64_t r = 0; r < rows; ++r) {
    float* const row = s + r * s_row;
    Vec top0 = hn::Set(tag, m[r]), top1 = top0;
    for (int64_t n = 0; n < cols; n += kPanel) {
      Vec x0 = hn::LoadU(tag, row + n), x1 = hn::LoadU(tag, row + n + kLanes);
      if (bias != nullptr) {
        x0 = hn::Add(x0, hn::LoadU(tag, bias + n));
        x1 = hn::Add(x1, hn::LoadU(tag, bias + n + kLanes));
        hn::StoreU(x0, tag, row + n);
        hn::StoreU(x1, tag, row + n + kLanes);
      }
      top0 = hn::Max(x0, top0);  // a NaN logit is passed over here and met again in the sum
      top1 = hn::Max(x1, top1);
    }
    const float top = hn::GetLane(hn::MaxOfLanes(tag, hn::Max(top0, top1)));
    const float origin = top == kNone ? 0.0F : top;
    const Vec shift = hn::Set(tag, origin);
    Vec sum0 = hn::Zero(tag), sum1 = sum0;
    for (int64_t n = 0; n < cols; n += kPanel) {
      const Vec p0 = exp2_nonpositive(hn::Sub(hn::LoadU(tag, row + n), shift));
      const Vec p1 = exp2_nonpositive(hn::Sub(hn::LoadU(tag, row + n + kLanes), shift));
      hn::StoreU(p0, tag, row + n);
      hn::StoreU(p1, tag, row + n + kLanes);
      sum0 = hn::Add(sum0, p0);
      sum1 = hn::Add(sum1, p1);
    }
    const float sum = hn::GetLane(hn::SumOfLanes(tag, hn::Add(sum0, sum1)));
    const float factor = m[r] == top ? 1.0F : hn::GetLane(exp2_nonpositive(hn::Set(tag, m[r] - origin)));
    any = any || factor != 1.0F;
    rescale[r] = factor;
    l[r] = l[r] * factor + sum;
    m[r] = top;
  }
  return any;
}

void rescale_rows(int64_t rows, int64_t panels, const float* rescale, float* acc) {
  const Tag tag;
  constexpr int64_t kLanes = 8;
  for (int64_t r = 0; r < rows; ++r) {
    if (rescale[r] == 1.0F) continue;
    const Vec factor = hn::Set(tag, rescale[r]);
    for (int64_t p = 0; p < panels; ++p) {
      float* const at = acc + (p * rows + r) * kPanel;
      hn::StoreU(hn::Mul(hn::LoadU(tag, at), factor), tag, at);
      hn::StoreU(hn::Mul(hn::LoadU(tag, at + kLanes), factor), tag, at + kLanes);
    }
  }
}

}  // namespace sla2::kernels::avx2
