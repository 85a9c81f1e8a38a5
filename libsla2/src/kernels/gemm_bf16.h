// SPDX-License-Identifier: Apache-2.0
// A small product of bf16 numbers with fp32 sums, for operands that lie in pairs along the depth:
//
//   C[rows, cols] = Σ_k a(r, 2k)·b(2k, n) + a(r, 2k + 1)·b(2k + 1, n)      (+ C where `accumulate`)
//
// Pair (r, k) of A lies at a[2 · (r · a_row + k · a_step)], so that A and its transpose need no copy; B is [depth][b_line][2]:
// for each k a line of columns. cols is a multiple of 16. Layouts of B: pack_keys_bf16 and pack_values_bf16 (attend_bf16.h).
#pragma once
#include <cstdint>

#include "core/dtype.h"

namespace sla2::kernels {

struct GemmBf16 {
  int64_t rows, cols, depth;  ///< depth in pairs
  const bf16_t* a;
  int64_t a_row, a_step;  ///< in pairs
  const bf16_t* b;
  int64_t b_line;  ///< in pairs
  float* c;
  int64_t c_row;
  bool accumulate;
};

using GemmBf16Op = void (*)(const GemmBf16& args);

namespace ref {
void gemm_bf16(const GemmBf16& args);
}
namespace avx512_bf16 {
void gemm_bf16(const GemmBf16& args);
}

}  // namespace sla2::kernels
