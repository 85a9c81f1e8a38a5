// SPDX-License-Identifier: Apache-2.0
// Online softmax for vectors of N floats, for AVX2 and AVX-512 files only: one pass for the row maximum, one for 2^x and the sum;
// the tile is in L1/L2 both times.
#pragma once
#include "kernels/cpu/exp2.h"
#include "kernels/online_softmax.h"
#include "kernels/panel_gemm.h"

namespace sla2::kernels {
namespace {

template <size_t N>
bool online_softmax_with(int64_t rows, int64_t cols, float* s, int64_t s_row, const float* bias, float* m, float* l,
                         float* rescale) {
  const hn::FixedTag<float, N> tag;
  constexpr int64_t kLanes = static_cast<int64_t>(N), kVectors = kPanel / kLanes;
  constexpr float kNone = -__builtin_inff();
  bool any = false;
  for (int64_t r = 0; r < rows; ++r) {
    float* const row = s + r * s_row;
    hn::Vec<hn::FixedTag<float, N>> most[kVectors], sums[kVectors];
#pragma GCC unroll 2
    for (int64_t v = 0; v < kVectors; ++v) most[v] = hn::Set(tag, m[r]), sums[v] = hn::Zero(tag);
    for (int64_t n = 0; n < cols; n += kPanel)
#pragma GCC unroll 2
      for (int64_t v = 0; v < kVectors; ++v) {
        float* const at = row + n + v * kLanes;
        auto x = hn::LoadU(tag, at);
        if (bias != nullptr) {
          x = hn::Add(x, hn::LoadU(tag, bias + n + v * kLanes));
          hn::StoreU(x, tag, at);
        }
        most[v] = hn::Max(x, most[v]);  // a NaN logit is passed over here and met again in the sum
      }
    const float top = hn::GetLane(hn::MaxOfLanes(tag, hn::Max(most[0], most[kVectors - 1])));
    const float origin = top == kNone ? 0.0F : top;
    const auto shift = hn::Set(tag, origin);
    for (int64_t n = 0; n < cols; n += kPanel)
#pragma GCC unroll 2
      for (int64_t v = 0; v < kVectors; ++v) {
        float* const at = row + n + v * kLanes;
        const auto p = exp2_nonpositive(hn::Sub(hn::LoadU(tag, at), shift));
        hn::StoreU(p, tag, at);
        sums[v] = hn::Add(sums[v], p);
      }
#pragma GCC unroll 2
    for (int64_t v = 1; v < kVectors; ++v) sums[0] = hn::Add(sums[0], sums[v]);
    const float sum = hn::GetLane(hn::SumOfLanes(tag, sums[0]));
    const float factor = m[r] == top ? 1.0F : hn::GetLane(exp2_nonpositive(hn::Set(tag, m[r] - origin)));
    any = any || factor != 1.0F;
    rescale[r] = factor;
    l[r] = l[r] * factor + sum;
    m[r] = top;
  }
  return any;
}

template <size_t N>
void rescale_rows_with(int64_t rows, int64_t panels, const float* rescale, float* acc) {
  const hn::FixedTag<float, N> tag;
  constexpr int64_t kLanes = static_cast<int64_t>(N);
  for (int64_t r = 0; r < rows; ++r) {
    if (rescale[r] == 1.0F) continue;
    const auto factor = hn::Set(tag, rescale[r]);
    for (int64_t p = 0; p < panels; ++p) {
      float* const at = acc + (p * rows + r) * kPanel;
      for (int64_t c = 0; c < kPanel; c += kLanes) hn::StoreU(hn::Mul(hn::LoadU(tag, at + c), factor), tag, at + c);
    }
  }
}

}  // namespace
}  // namespace sla2::kernels
