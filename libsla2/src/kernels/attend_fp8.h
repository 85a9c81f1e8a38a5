// SPDX-License-Identifier: Apache-2.0
// attend_int8 with P·V in FP8, as GPUs with e4m3 matrix products compute it: a model of their arithmetic, for tests and for
// judging quality before there is such a GPU. Plain code only.
//
//   P = 2^(score - m + log2 448), l = Σ P / 448 of what is not rounded;  V = v / value_scale, one scale per head and channel
//   acc = value_scale / 448 · Σ e4m3(P) · e4m3(V)
//
// The tensor cores' sums are short: 32 products at a time are added to a number of 13 mantissa bits and what is beyond is cut
// off. The usual remedy is to begin such a sum anew every 64 keys and to add it to one in fp32 (two-level accumulation). Sources:
// SageAttention2 (arXiv 2411.10958) and SageAttention2++ (arXiv 2505.21136).
#pragma once
#include <cstdint>

#include "kernels/attend_int8.h"

namespace sla2::kernels {

enum class Fp8Sums : uint8_t {
  kExact,     ///< products of 64 keys added without error, then in fp32
  kTwoLevel,  ///< as said above
};

struct AttendFp8 {
  AttendInt8 scores;            ///< as for attend_int8; value_blocks, weights and sums are not looked at
  const uint8_t* value_blocks;  ///< [T_n][block_k][P·16] e4m3, see pack_values_fp8
  const float* value_scale;     ///< [P·16], see pack_values_fp8
  Fp8Sums sums;
};

using AttendFp8Op = void (*)(const AttendFp8& args);
/// largest [D] = max(largest, |rows|) over what is finite in rows [n, D]: call it for every block of a head, from zeros.
using LargestPerChannel = void (*)(const float* rows, int64_t n, int64_t dim, float* largest);
/// fp32 rows [n, D] to e4m3 [block][P·16] in steps of scale [P·16] = largest / 448 (0 below 1e-35). What is not filled is
/// zero, what is not finite NaN.
using PackValuesFp8 = void (*)(const float* rows, int64_t n, int64_t dim, int64_t block, const float* largest, uint8_t* out,
                               float* scale);

namespace ref {
void attend_fp8(const AttendFp8& args);
void largest_per_channel(const float* rows, int64_t n, int64_t dim, float* largest);
void pack_values_fp8(const float* rows, int64_t n, int64_t dim, int64_t block, const float* largest, uint8_t* out, float* scale);
}  // namespace ref

}  // namespace sla2::kernels
