// SPDX-License-Identifier: Apache-2.0
// Panel product for vectors of N floats, for AVX2 and AVX-512 files only: some rows x 16 columns of C stay in registers while k
// runs. Why so many rows: kernels/tiles.h.
#pragma once
#include <hwy/highway.h>

#include <utility>

#include "kernels/panel_gemm.h"

namespace sla2::kernels {
namespace {

namespace hn = hwy::HWY_NAMESPACE;
template <size_t N>
inline constexpr int kTileRows = static_cast<int>(N == 8 ? kGemmRows : kWideGemmRows);

template <size_t N, int rows>
void panel_tile(int64_t depth, const float* a, int64_t a_row, int64_t a_step, const float* b, float* c, int64_t c_row,
                bool accumulate) {
  const hn::FixedTag<float, N> tag;
  constexpr int64_t kLanes = static_cast<int64_t>(N);
  constexpr int kVectors = static_cast<int>(kPanel / kLanes);
  hn::Vec<hn::FixedTag<float, N>> sum[rows][kVectors], right[kVectors];
#pragma GCC unroll 16
  for (int r = 0; r < rows; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) sum[r][v] = hn::Zero(tag);
  // Rows in fours, which one address and two strides reach: the general registers are too few for a stride per row.
  constexpr int kFour = 4, kFours = (rows + kFour - 1) / kFour;
  const float* left[kFours];
#pragma GCC unroll 4
  for (int i = 0; i < kFours; ++i) left[i] = a + i * kFour * a_row;
  for (int64_t k = 0; k < depth; ++k, b += kPanel) {
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) right[v] = hn::LoadU(tag, b + v * kLanes);
#pragma GCC unroll 16
    for (int r = 0; r < rows; ++r) {
      const auto x = hn::Set(tag, left[r / kFour][r % kFour * a_row]);
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) sum[r][v] = hn::MulAdd(x, right[v], sum[r][v]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < kFours; ++i) left[i] += a_step;
  }
#pragma GCC unroll 16
  for (int r = 0; r < rows; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) {
      float* const out = c + r * c_row + v * kLanes;
      if (accumulate) sum[r][v] = hn::Add(sum[r][v], hn::LoadU(tag, out));
      hn::StoreU(sum[r][v], tag, out);
    }
}

using PanelTile = void (*)(int64_t, const float*, int64_t, int64_t, const float*, float*, int64_t, bool);
/// Tiles of 1, 2 … rows.
template <size_t N, typename Rows>
struct PanelTiles;
template <size_t N, int... before>
struct PanelTiles<N, std::integer_sequence<int, before...>> {
  static constexpr PanelTile kOf[] = {nullptr, panel_tile<N, before + 1>...};
};

template <size_t N>
void panel_gemm_with(int64_t rows, int64_t depth, const float* a, int64_t a_row, int64_t a_step, const float* b, float* c,
                     int64_t c_row, bool accumulate) {
  constexpr int64_t kMost = kTileRows<N>;
  using Tiles = PanelTiles<N, std::make_integer_sequence<int, kTileRows<N>>>;
  while (rows > 0) {
    // A little more than a tile is cut in halves: 6 + 1 or 6 + 2 would leave a tile too small to hide the FMA latency.
    const int64_t step = rows <= kMost ? rows : rows <= kMost + kMost / 3 ? (rows + 1) / 2 : kMost;
    Tiles::kOf[step](depth, a, a_row, a_step, b, c, c_row, accumulate);
    rows -= step;
    a += step * a_row;
    c += step * c_row;
  }
}

}  // namespace
}  // namespace sla2::kernels
