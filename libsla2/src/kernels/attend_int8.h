// SPDX-License-Identifier: Apache-2.0
// The softmax branch of attention with Q·K in eight bits: one block of queries against a list of key blocks.
//
//   score = scale · q_scale[row] · key_scale[block] · Σ_d q8 · k8 (+ bias), base 2;  m, l, acc as in attend_bf16.h
//
// Integer sums are exact. Weights and values are bf16 with fp32 sums, as in attend_bf16.h, whose packed values these ops read.
// Keys are stored plus 128: VPDPBUSD multiplies unsigned by signed bytes, and 128 · Σ_d q8 is one number per row.
//
// Bytes hold no NaN, so scales do. A key block with NaN or infinity has scale NaN: the rows that see it become NaN, which they
// do in exact arithmetic too. A query row with NaN or infinity has q_scale NaN and becomes NaN alone.
#pragma once
#include <cstdint>

#include "core/dtype.h"

namespace sla2::kernels {

struct AttendInt8 {
  int64_t rows, dim;           ///< queries in the block; D, a multiple of 8, at most 256
  int64_t block_k, keys;       ///< key block, 16 to 128 in steps of 16; keys in all (the last block may be ragged)
  const int8_t* q;             ///< [rows][D], see quantise_rows_int8
  const float* q_scale;        ///< [rows]
  const int32_t* q_offset;     ///< [rows] -128 · Σ_d q
  const uint8_t* key_blocks;   ///< [T_n][D/4][block_k][4], see pack_keys_int8
  const float* key_scale;      ///< [T_n]
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

using AttendInt8Op = void (*)(const AttendInt8& args);
/// fp32 rows [n, D] to int8 [n][D] with one scale, amax / 127 over what is finite, to the nearest even step. scale [n]: that
/// number in every row, NaN in a row with NaN or infinity; 0 where all is zero (below 1e-35 counts as zero). offset [n]:
/// -128 · Σ_d.
using QuantiseRowsInt8 = void (*)(const float* rows, int64_t n, int64_t dim, int8_t* out, float* scale, int32_t* offset);
/// The same for a block of keys: [D/4][block][4] plus 128, and one scale, NaN if anything is not finite. Rows n … block are 0.
using PackKeysInt8 = void (*)(const float* rows, int64_t n, int64_t dim, int64_t block, uint8_t* out, float* scale);

namespace ref {
void attend_int8(const AttendInt8& args);
void quantise_rows_int8(const float* rows, int64_t n, int64_t dim, int8_t* out, float* scale, int32_t* offset);
void pack_keys_int8(const float* rows, int64_t n, int64_t dim, int64_t block, uint8_t* out, float* scale);
}  // namespace ref
namespace avx2 {
void attend_int8(const AttendInt8& args);  ///< products with values in fp32; `weights` and `sums` are not used
void quantise_rows_int8(const float* rows, int64_t n, int64_t dim, int8_t* out, float* scale, int32_t* offset);
void pack_keys_int8(const float* rows, int64_t n, int64_t dim, int64_t block, uint8_t* out, float* scale);
}  // namespace avx2
namespace avx512 {
void attend_int8(const AttendInt8& args);  ///< as avx2's
}
namespace avx512_vnni {
void attend_int8(const AttendInt8& args);  ///< as avx2's
}
namespace avx512_bf16 {
void attend_int8(const AttendInt8& args);
void quantise_rows_int8(const float* rows, int64_t n, int64_t dim, int8_t* out, float* scale, int32_t* offset);
void pack_keys_int8(const float* rows, int64_t n, int64_t dim, int64_t block, uint8_t* out, float* scale);
}  // namespace avx512_bf16

}  // namespace sla2::kernels
