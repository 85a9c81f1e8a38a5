// SPDX-License-Identifier: Apache-2.0
// Small product of bf16 pairs, AVX-512 + VDPBF16PS: 4 rows x 64 columns in 16 registers, as in attend_bf16.cpp. Columns outside,
// so that 64 columns of B (depth 64 pairs: 16 KB) stay in L1 while all rows pass.
#include "kernels/gemm_bf16.h"

#include "kernels/cpu/bf16_vectors.h"

namespace sla2::kernels::avx512_bf16 {
namespace {

template <int rows_count, int vecs>
void tile(const GemmBf16& g, int64_t row, int64_t column) {
  const bf16_t* a = g.a + 2 * row * g.a_row;
  const bf16_t* b = g.b + 2 * column;
  const int64_t a_row = 2 * g.a_row, a_step = 2 * g.a_step, b_step = 2 * g.b_line;
  float* const c = g.c + row * g.c_row + column;
  Vec sum[rows_count][vecs];
#pragma GCC unroll 8
  for (int r = 0; r < rows_count; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < vecs; ++v) sum[r][v] = g.accumulate ? _mm512_loadu_ps(c + r * g.c_row + v * kLanes) : _mm512_setzero_ps();
  for (int64_t k = 0; k < g.depth; ++k, a += a_step, b += b_step) {
    Pairs line[vecs];
#pragma GCC unroll 8
    for (int v = 0; v < vecs; ++v) line[v] = load_pairs(b + v * 2 * kLanes);
#pragma GCC unroll 8
    for (int r = 0; r < rows_count; ++r) {
      const Pairs x = reinterpret_cast<Pairs>(broadcast_32(a + r * a_row));
#pragma GCC unroll 8
      for (int v = 0; v < vecs; ++v) sum[r][v] = _mm512_dpbf16_ps(sum[r][v], x, line[v]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < rows_count; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < vecs; ++v) _mm512_storeu_ps(c + r * g.c_row + v * kLanes, sum[r][v]);
}

using Tile = void (*)(const GemmBf16&, int64_t, int64_t);
constexpr Tile kTiles[kVecs][kRows] = {{tile<1, 1>, tile<2, 1>, tile<3, 1>, tile<4, 1>},
                                       {tile<1, 2>, tile<2, 2>, tile<3, 2>, tile<4, 2>},
                                       {tile<1, 3>, tile<2, 3>, tile<3, 3>, tile<4, 3>},
                                       {tile<1, 4>, tile<2, 4>, tile<3, 4>, tile<4, 4>}};

}  // namespace

void gemm_bf16(const GemmBf16& g) {
  for (int64_t n = 0; n < g.cols; n += kColumns) {
    const Tile* const tiles = kTiles[least(kColumns, g.cols - n) / kLanes - 1];
    for (int64_t r = 0; r < g.rows; r += kRows) tiles[least(kRows, g.rows - r) - 1](g, r, n);
  }
}

}  // namespace sla2::kernels::avx512_bf16
