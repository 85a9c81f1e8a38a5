// SPDX-License-Identifier: Apache-2.0
// The softmax branch of attention in bf16 products with fp32 sums: one block of queries against a list of key blocks.
//
//   m, l, acc = online softmax over the keys of the listed blocks of scale · q·k (+ bias), base 2
//
// Weights are rounded to bf16 before P·V, and l sums the rounded ones, so that they add up to one exactly. NaN anywhere
// makes l NaN; a row without keys keeps m = -inf, l = 0.
#pragma once
#include <cstdint>

#include "core/dtype.h"

namespace sla2::kernels {

struct AttendBf16 {
  int64_t rows, dim;           ///< queries in the block; D, a multiple of 8
  int64_t block_k, keys;       ///< key block, 16 to 128 in steps of 16; keys in all (the last block may be ragged)
  const bf16_t* q;             ///< [rows][D]
  const bf16_t* key_blocks;    ///< [T_n][D/2][block_k][2], see pack_keys_bf16
  const bf16_t* value_blocks;  ///< [T_n][block_k/2][P·16][2], see pack_values_bf16
  const int32_t* list;         ///< [count] key blocks, or null for 0 … count - 1
  int64_t count;
  const float* bias;       ///< [T_n·block_k] added to the scaled logits, base 2; -inf masks; or null
  const float* tail_bias;  ///< [block_k] the same for a ragged last block where `bias` is null
  float scale;             ///< softmax scale · log2 e, positive
  float *m, *l;            ///< [rows] out
  float* acc;              ///< [rows][P·16] out: Σ weight · v
  bf16_t* weights;         ///< [rows][block_k] scratch
  float* sums;             ///< [rows][16] scratch
};

using AttendBf16Op = void (*)(const AttendBf16& args);
/// fp32 rows [n, D] to [D/2][block][2]: for each pair of channels a line of keys. Rows n … block are zero.
using PackKeysBf16 = void (*)(const float* rows, int64_t n, int64_t dim, int64_t block, bf16_t* out);
/// fp32 rows [n, D] to [block/2][P·16][2]: for each pair of keys a line of channels. What is not filled is zero.
using PackValuesBf16 = void (*)(const float* rows, int64_t n, int64_t dim, int64_t block, bf16_t* out);
/// fp32 [count] to bf16, nearest even.
using NarrowBf16 = void (*)(const float* rows, int64_t count, bf16_t* out);

namespace ref {
void attend_bf16(const AttendBf16& args);
void pack_keys_bf16(const float* rows, int64_t n, int64_t dim, int64_t block, bf16_t* out);
void pack_values_bf16(const float* rows, int64_t n, int64_t dim, int64_t block, bf16_t* out);
void narrow_rows_bf16(const float* rows, int64_t count, bf16_t* out);
}  // namespace ref
namespace avx2 {
void pack_values_bf16(const float* rows, int64_t n, int64_t dim, int64_t block, bf16_t* out);  ///< for attend_int8
}
namespace avx512_bf16 {
void attend_bf16(const AttendBf16& args);
void pack_keys_bf16(const float* rows, int64_t n, int64_t dim, int64_t block, bf16_t* out);
void pack_values_bf16(const float* rows, int64_t n, int64_t dim, int64_t block, bf16_t* out);
void narrow_rows_bf16(const float* rows, int64_t count, bf16_t* out);
}  // namespace avx512_bf16

}  // namespace sla2::kernels
