// SPDX-License-Identifier: Apache-2.0
// The last step: weigh the branches, leave the panel layout, convert and store.
//   out[r, c] = w_sparse[r] · sparse[c / 16][r][c % 16]  (+ w_linear[r] · linear[...] where linear is given)
// A branch with weight 0 is not read into the sum, so that 0 · inf cannot appear.
#pragma once
#include <cstdint>

#include "core/dtype.h"

namespace sla2::kernels {

struct MergeInput {
  const float* sparse;    ///< [ceil(D/16)][rows][16]; or [rows][row] where that is set; `linear` too
  const float* w_sparse;  ///< [rows]
  const float* linear = nullptr;
  const float* w_linear = nullptr;
  int64_t row = 0;
};

/// out: first row of the block; row stride in elements. fp32, bf16 or fp16 (round to nearest even).
using MergeRows = void (*)(const MergeInput& input, int64_t rows, int64_t dim, void* out, DType dtype, int64_t out_row);

namespace ref {
void merge_rows(const MergeInput& input, int64_t rows, int64_t dim, void* out, DType dtype, int64_t out_row);
}
namespace avx2 {
void merge_rows(const MergeInput& input, int64_t rows, int64_t dim, void* out, DType dtype, int64_t out_row);
}
namespace avx512 {
void merge_rows(const MergeInput& input, int64_t rows, int64_t dim, void* out, DType dtype, int64_t out_row);
}

}  // namespace sla2::kernels
