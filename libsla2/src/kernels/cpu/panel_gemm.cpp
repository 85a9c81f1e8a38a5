// SPDX-License-Identifier: Apache-2.0
// Panel product, AVX2 + FMA: kRows x 16 of C stay in registers while k runs (12 accumulators, 2 of B, 1 broadcast).
// Per k: 12 FMA for 2 loads and 6 broadcasts, so the two FMA ports are the limit, not the two load ports.
#include "kernels/panel_gemm.h"

#include <hwy/highway.h>

namespace sla2::kernels::avx2 {
namespace {

namespace hn = hwy::HWY_NAMESPACE;
using Tag = hn::FixedTag<float, 8>;
using Vec = hn::Vec<Tag>;
constexpr int64_t kMaxRows = kGemmRows;

template <int kRows>
void tile(int64_t depth, const float* a, int64_t a_row, int64_t a_step, const float* b, float* c, int64_t c_row,
          bool accumulate) {
  const Tag tag;
  constexpr int64_t kHalf = kPanel / 2;
  Vec low[kRows], high[kRows];
#pragma GCC unroll 6
  for (int r = 0; r < kRows; ++r) low[r] = high[r] = hn::Zero(tag);
  for (int64_t k = 0; k < depth; ++k, a += a_step, b += kPanel) {
    const Vec b_low = hn::LoadU(tag, b), b_high = hn::LoadU(tag, b + kHalf);
#pragma GCC unroll 6
    for (int r = 0; r < kRows; ++r) {
      const Vec x = hn::Set(tag, a[r * a_row]);
      low[r] = hn::MulAdd(x, b_low, low[r]);
      high[r] = hn::MulAdd(x, b_high, high[r]);
    }
  }
#pragma GCC unroll 6
  for (int r = 0; r < kRows; ++r) {
    float* const out = c + r * c_row;
    if (accumulate) {
      low[r] = hn::Add(low[r], hn::LoadU(tag, out));
      high[r] = hn::Add(high[r], hn::LoadU(tag, out + kHalf));
    }
    hn::StoreU(low[r], tag, out);
    hn::StoreU(high[r], tag, out + kHalf);
  }
}

using Tile = void (*)(int64_t, const float*, int64_t, int64_t, const float*, float*, int64_t, bool);
constexpr Tile kTiles[kMaxRows + 1] = {nullptr, tile<1>, tile<2>, tile<3>, tile<4>, tile<5>, tile<6>};

}  // namespace

void panel_gemm(int64_t rows, int64_t depth, const float* a, int64_t a_row, int64_t a_step, const float* b, float* c,
                int64_t c_row, bool accumulate) {
  while (rows > 0) {
    // 7 and 8 rows are cut in halves: 6 + 1 or 6 + 2 would leave a tile too small to hide the FMA latency.
    const int64_t step = rows <= kMaxRows ? rows : rows <= kMaxRows + 2 ? (rows + 1) / 2 : kMaxRows;
    kTiles[step](depth, a, a_row, a_step, b, c, c_row, accumulate);
    rows -= step;
    a += step * a_row;
    c += step * c_row;
  }
}

}  // namespace sla2::kernels::avx2
