// SPDX-License-Identifier: Apache-2.0
// Sums of per-block arrays (h_j, z_j) over a list of blocks, in fp64: Σ_j or base - Σ_j.
//
//   out[i] = base[i] + sign · Σ_{j in list} blocks[j * stride + i],  i < count;  base null: 0
//
// fp64 because "totals minus selected" cancels: the totals may be many times what is left, and the difference of two fp64
// sums of the same fp32 blocks still has fp32 precision. Same order everywhere: same bits on every instruction set.
#pragma once
#include <cstdint>

namespace sla2::kernels {

using BlockSum = void (*)(int64_t count, const float* blocks, int64_t stride, const int32_t* list, int64_t list_size, double sign,
                          const double* base, double* out);

namespace ref {
void block_sum(int64_t count, const float* blocks, int64_t stride, const int32_t* list, int64_t list_size, double sign,
               const double* base, double* out);
}
namespace avx2 {
void block_sum(int64_t count, const float* blocks, int64_t stride, const int32_t* list, int64_t list_size, double sign,
               const double* base, double* out);
}
namespace avx512 {
void block_sum(int64_t count, const float* blocks, int64_t stride, const int32_t* list, int64_t list_size, double sign,
               const double* base, double* out);
}

}  // namespace sla2::kernels
