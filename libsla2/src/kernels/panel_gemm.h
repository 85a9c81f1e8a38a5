// SPDX-License-Identifier: Apache-2.0
// The product under every matrix product of attention: one panel of kPanel columns.
//
//   C[rows, 16] = A[rows, depth] · B[depth, 16]      (+ C where `accumulate`)
//
// A is addressed as a[r * a_row + k * a_step], so that A and its transpose need no copy; B is packed, 16 floats per k;
// C has row stride c_row. Vector versions sum in fp32 with FMA, k in order; the reference sums in fp64 and rounds once.
#pragma once
#include <cstdint>

#include "kernels/tiles.h"

namespace sla2::kernels {

[[nodiscard]] constexpr int64_t panels_of(int64_t columns) { return (columns + kPanel - 1) / kPanel; }

using PanelGemm = void (*)(int64_t rows, int64_t depth, const float* a, int64_t a_row, int64_t a_step, const float* b, float* c,
                           int64_t c_row, bool accumulate);

namespace ref {
void panel_gemm(int64_t rows, int64_t depth, const float* a, int64_t a_row, int64_t a_step, const float* b, float* c,
                int64_t c_row, bool accumulate);
}
namespace avx2 {
void panel_gemm(int64_t rows, int64_t depth, const float* a, int64_t a_row, int64_t a_step, const float* b, float* c,
                int64_t c_row, bool accumulate);
}
namespace avx512 {
void panel_gemm(int64_t rows, int64_t depth, const float* a, int64_t a_row, int64_t a_step, const float* b, float* c,
                int64_t c_row, bool accumulate);
}

}  // namespace sla2::kernels
