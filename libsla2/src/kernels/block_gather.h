// SPDX-License-Identifier: Apache-2.0
// From strided rows of fp32, bf16 or fp16 to what the products read: fp32 rows, packed panels, block means.
// Letters: n rows (tokens) of D channels; `block` rows of room, of which n <= block are filled and the rest are zero.
#pragma once
#include <cstdint>

#include "core/dtype.h"

namespace sla2::kernels {

/// Rows of one head: row t starts at element t * stride; channels are contiguous.
struct RowSource {
  const void* data;
  DType dtype;
  int64_t stride;
};

/// Keys as right-hand side of Q·Kᵀ: rows [n, D] to out [block / 16][D][16].
void pack_keys(const float* rows, int64_t n, int64_t dim, int64_t block, float* out);
/// Values as right-hand side of P·V: rows [n, D] to out [ceil(D / 16)][block][16].
void pack_values(const float* rows, int64_t n, int64_t dim, int64_t block, float* out);

/// out [n, D] = scale · rows [first, first + n).
using LoadRows = void (*)(const RowSource& source, int64_t first, int64_t n, int64_t dim, float scale, float* out);
/// x [n, D] -= shift [D].
using ShiftRows = void (*)(int64_t n, int64_t dim, const float* shift, float* x);
/// mean [D] at out[c * out_step]: fp64 sum in row order, then one rounding to fp32 (equal rows give that row exactly). The same
/// bits on every instruction set: the router reads it.
using MeanRows = void (*)(const float* rows, int64_t n, int64_t dim, float* out, int64_t out_step);

#define SLA2_ROW_OPS_DECLARED                                                                              \
  void load_rows(const RowSource& source, int64_t first, int64_t n, int64_t dim, float scale, float* out); \
  void shift_rows(int64_t n, int64_t dim, const float* shift, float* x);                                   \
  void mean_rows(const float* rows, int64_t n, int64_t dim, float* out, int64_t out_step);
namespace ref {
SLA2_ROW_OPS_DECLARED
}
namespace avx2 {
SLA2_ROW_OPS_DECLARED
}
namespace avx512 {
SLA2_ROW_OPS_DECLARED
}
#undef SLA2_ROW_OPS_DECLARED

}  // namespace sla2::kernels
