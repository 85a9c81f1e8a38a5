// SPDX-License-Identifier: Apache-2.0
// The one parameter of each kernel of the backward. Letters as in params.h; a half is 32 rows of a tile image, U = heads_per_key
// · T_m the query blocks that read one key head; P the rows of query tiles, a multiple of 64.
#pragma once
#include "kernels/cuda/params.h"

namespace sla2::cuda {

/// sla2_transpose_count, sla2_transpose_scan, sla2_transpose_fill: which query blocks keep a key block, ascending. Grids
/// (ceil(T_n / 128), heads), (1, heads), (ceil(T_n / 128), heads).
struct TransposeParams {
  const int32_t *list, *count;  ///< [heads][T_m][capacity], [heads][T_m]
  int32_t* begin;               ///< [heads][T_n + 1]: counts, then where each key block's query blocks begin
  int32_t* index;               ///< [heads][T_m · most]
  int64_t capacity;
  int32_t query_blocks, key_blocks, most;  ///< most: blocks a row of the list can hold
};

/// The mask read by columns; begin null: every query block keeps every key block.
struct Columns {
  const int32_t *begin, *index;  ///< of sla2_transpose_*
  int32_t query_blocks, key_blocks, most, halves_per_block, heads_per_key;
};

/// Row statistics of the softmax, [heads][P] each: a weight is exp2(s - top) · weight, dS = P · (dP - mean). Zero past the end.
struct Statistics {
  float *top, *weight, *mean;
};

/// sla2_backward_statistics_*: one walk over a query block's tiles. Grid (T_m, heads).
struct StatisticsParams {
  AttendParams a;                            ///< q, keys, values, list, count, sizes
  const unsigned char *queries, *gradients;  ///< tiles of Q and dO: [heads][P / 64]
  Statistics out;
  int32_t query_tiles;
};

/// sla2_backward_given: the same from the caller's out and log-sum-exps; mean is dO · out. Grid (T_m, heads).
struct GivenParams {
  AttendParams a;  ///< q, out, shift, lse, sizes
  Rows d_out;
  Statistics out;
  int32_t query_tiles;
};

/// sla2_backward_linear_*: a, and the linear branch's side of the queries. Grid (T_m, heads).
struct LinearParams {
  AttendParams a;  ///< q, features, feature_values, list, count, totals, mix, sizes
  const unsigned char* gradients;
  Statistics rows;        ///< in: without a; out: with a. Null top: there is no softmax
  unsigned char* shares;  ///< tiles of (1 - a)·φ(Q) / denominator, [heads][P / 64]
  float* d_queries;       ///< [heads][P][W] out
  float *d_z, *d_floor;   ///< [heads][T_m][W] out
  float* d_mix;           ///< [heads][T_m][2] out: by scale, by bias; or null
  int32_t query_tiles;
  int32_t given;  ///< mean is dO · out
};

/// sla2_backward_queries_*: dQ. Grid (T_m, heads).
struct QueriesParams {
  AttendParams a;  ///< out: dQ; keys, values, list, count, sizes
  const unsigned char *queries, *gradients;
  Statistics rows;
  const float* d_queries;  ///< [heads][P][W] what the sum begins with, or null
  float softmax_scale;
  int32_t query_tiles;
};

/// sla2_backward_linear_keys_*: the linear branch's side of the keys. Grid (T_n, key heads).
struct LinearKeysParams {
  Rows k;
  Columns columns;
  const unsigned char *shares, *gradients;   ///< tiles of the query heads
  const unsigned char* values;               ///< tiles of V
  const float* shift;                        ///< [key heads][D] or null: φ sees keys as they are
  const float *state_total, *z_total, *d_z;  ///< [key heads][W][W], [key heads][2][W], [heads][T_m][W]
  const float* floor_total;                  ///< [key heads][W]
  float *d_keys, *d_values;                  ///< [key heads][T_n · block_k][W] out
  int64_t key_tokens;
  int32_t dim, block_k, query_tiles, everywhere;  ///< everywhere: the branch sees all blocks
};

/// sla2_backward_keys_*: dK and dV of the softmax. Grid (T_n · tiles per block, key heads).
struct KeysParams {
  Columns columns;
  const unsigned char *queries, *gradients;  ///< tiles of the query heads
  const unsigned char *keys, *values;        ///< tiles of the key heads
  Statistics rows;
  float *d_keys, *d_values;                   ///< [key heads][T_n · block_k][W] out
  float scale, softmax_scale;                 ///< with and without log2 e
  int32_t query_tiles, tiles_per_block, add;  ///< add: to what is there
};

/// sla2_backward_columns: column sums of the blocks of dK; sums = sign · Σ, or added to. Grid (T_n, key heads).
struct ColumnsParams {
  const float* d_keys;
  float* sums;  ///< [key heads][T_n][W]
  float sign;
  int64_t key_tokens;
  int32_t width, block_k, key_blocks, add;
};

/// sla2_backward_totals: blocks of [W] added up in order, times factor. Grid (1, key heads).
struct RowTotalsParams {
  const float* blocks;  ///< [key heads][count][W]
  float* total;         ///< [key heads][W]
  float factor;
  int32_t count, width;
};

/// sla2_backward_store: rows minus a line, to a caller's tensor. Grid (ceil(N_k / 64), key heads).
struct StoreParams {
  Rows out;
  const float* from;  ///< [key heads][rows][W]
  const float* line;  ///< [key heads][W] to take off, or null
  int64_t tokens, rows;
  int32_t dim, width;
};

/// sla2_backward_mix: da from the blocks' parts. Grid (1, 1).
struct MixParams {
  const float* parts;               ///< [B·H][T_m][2], or null: zeros
  float* out;                       ///< [rows][columns]
  int32_t all_heads, query_blocks;  ///< B·H
  int32_t rows, columns;            ///< H or 1; by query block T_m, affine 2, or else 1
  int32_t by_block, affine;
};

/// sla2_backward_zero. Grid (ceil(count / 256), 1).
struct ZeroParams {
  float* out;
  int64_t count;
};

}  // namespace sla2::cuda
