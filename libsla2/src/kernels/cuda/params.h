// SPDX-License-Identifier: Apache-2.0
// The one parameter of each kernel. Letters: heads are counted over the batch; T_n key blocks, D channels, W = D rounded up to
// 64 or 128; a tile is 64 keys, images of tiles are described in tiles.h.
#pragma once
#include <cstdint>

#include "kernels/cuda/tiles.h"

namespace sla2::cuda {

enum Element : int32_t { kElementF32 = 0, kElementF16 = 1, kElementBf16 = 2 };

/// A strided view [B,H,N,D]; strides in elements, channels contiguous.
struct Rows {
  void* data;
  int64_t stride_batch, stride_head, stride_token;
  int32_t heads;    ///< H
  int32_t element;  ///< Element
  int32_t pairs;    ///< 1: two neighbouring channels from an even one on are aligned together
};

/// sla2_pool: block means of keys; with fp8 values the largest magnitude of each channel of a value block. Grid (T_n, key heads).
struct PoolParams {
  Rows k, v;
  float* means;        ///< [key heads][D][mean_row] out
  float* value_peaks;  ///< [key heads][T_n][W] out, or null
  float* value_means;  ///< [key heads][T_n][W] out, or null
  int64_t key_tokens;
  int32_t dim, width, block_k, mean_row;
};

/// sla2_centre: the mean key, means minus it, scales of fp8 values. Grid (1, key heads).
struct CentreParams {
  float* means;              ///< [key heads][D][mean_row] in and out
  float* shift;              ///< [key heads][D] out: mean key
  const float* value_peaks;  ///< [key heads][T_n][W], or null
  float* value_scale;        ///< [key heads][W] out, or null
  float* mean_keys;          ///< [key heads][T_n][W] out: the means again, row by row; or null
  float value_top;           ///< what the largest value of a channel becomes in e4m3
  int64_t key_tokens;
  int32_t dim, width, block_k, key_blocks, mean_row;
};

/// sla2_pack: tiles of keys, values and features. Grid (T_n, key heads). Blocks under 64 keys lie several to a tile.
struct PackParams {
  Rows k, v;
  const float* shift;        ///< [key heads][D], or null: keys as they are
  const float* value_scale;  ///< [key heads][W] of fp8 values
  unsigned char* keys;       ///< tiles of bf16, or of int8 with key_scale
  float* key_scale;          ///< [key heads][scales], or null: bf16 keys
  unsigned char* values;     ///< tiles of bf16
  unsigned char* values8;    ///< transposed tiles of e4m3, or null
  unsigned char* features;   ///< tiles of bf16 φ(K), or null
  float* z;                  ///< [key heads][T_n][W] column sums of φ(K), where there are features
  int64_t key_tokens;
  int32_t dim, width, block_k, key_blocks;
  int32_t tiles, first_tile;    ///< of a key head; where these begin (mean keys lie behind the keys)
  int32_t scales, first_scale;  ///< the same for key_scale
  int32_t smooth_features;      ///< φ sees keys minus their mean
};

/// sla2_totals_*: φ(K)ᵀ·V over stretches of tiles. Grid (parts, key heads).
struct TotalsParams {
  const unsigned char *features, *values;
  float* partial;  ///< [key heads][parts][W][W] out
  int32_t tiles, tiles_per_part, parts;
};

/// sla2_sum_totals: parts and blocks added up in order. Grid (ceil(W·W / 256) + 1, key heads).
struct SumTotalsParams {
  const float* partial;  ///< [key heads][parts][W][W]
  const float* z;        ///< [key heads][T_n][W]
  float* state_total;    ///< [key heads][W][W] out
  float* z_total;        ///< [key heads][2][W] out: a sum in two fp32 numbers
  int32_t parts, key_blocks, width;
};

/// sla2_likeness: how alike the keys of a block are, minus the mean key. Grid (T_n, key heads).
struct LikenessParams {
  Rows k;
  const float* shift;  ///< [key heads][D]
  double* likeness;    ///< [key heads][T_n] out
  int64_t key_tokens;
  int32_t dim, block_k;
};

/// How many candidates are kept: a number; until top_p of the stretched scores; as many as stay within top_p of the softmax; the
/// number or until top_p of the softmax, whichever is more; none, blocks are given.
enum RouteRule : int32_t { kRuleTop = 0, kRuleAlike = 1, kRuleStretch = 2, kRuleCdf = 3, kRuleHybrid = 4, kRuleGiven = 5 };

/// sla2_route: the key blocks of each query block. Grid (T_m, heads).
struct RouteParams {
  Rows q;
  const float* means;                  ///< [key heads][D][mean_row] minus the mean key
  const float *router_q, *router_k;    ///< [router_heads][D][D] or null
  const double* likeness;              ///< [key heads][T_n]: those below theta are always kept; or null
  const int32_t *given, *given_count;  ///< [heads][T_m][given_capacity], [heads][T_m]; or null
  const uint8_t* given_mask;           ///< [heads][T_m][T_n], or null
  int32_t *list, *count;               ///< kept: [heads][T_m][capacity], [heads][T_m] out
  int32_t *apart, *apart_count;        ///< not in the linear branch: [heads][T_m][T_n], [heads][T_m] out; null: the kept
  float* soft;                         ///< [heads][T_m][T_n] out: M of SoftTop-k instead of lists, or null
  uint32_t* kept_bits;                 ///< [heads][T_m][ceil(T_n / 32)] out, or null
  const float* value_means;            ///< [key heads][T_n][W], where there is a coarse branch
  float* coarse;                       ///< [heads][T_m][W] out: softmax(R)·V̄, or null
  float* rest_log_sum;                 ///< [heads][T_m] out: log Σ over the others of b_j · exp(R_j), or null
  double scale;                        ///< of the softmax
  double top_p, theta;
  double tau, soft_middle;  ///< SoftTop-k: temperature, logit of keep / T_n
  int64_t query_tokens, key_tokens, capacity, given_capacity;
  RouteMap map;
  int32_t dim, width, block_q, block_k, query_blocks, key_blocks, mean_row, keep, heads, heads_per_key, router_heads;
  RouteRule rule;
  int32_t protect_first, protect_last, protect_near;  ///< near: -1 none
  int32_t drop;                                       ///< the least of the ranking, in neither branch
  int32_t everywhere;                                 ///< the linear branch sees the kept as well: only what is dropped is apart
};

/// sla2_list_all: the list where no router runs: the first `blocks` blocks in every row. Grid (1, heads).
struct ListAllParams {
  int32_t *list, *count;  ///< [heads][rows][capacity], [heads][rows] out
  int64_t capacity;
  int32_t rows, blocks;
};

/// sla2_summary: what a plan says of its last call, into memory that the host reads. One block of threads.
inline constexpr int kProbeSums = 5;  ///< Σ|x - full|, Σ|full|, Σ x·full, Σ x², Σ full²
struct Summary {
  double kept_pairs, linear_share, probe[kProbeSums];
};
struct SummaryParams {
  const int32_t* count;        ///< [rows], or null
  const float* linear_shares;  ///< [rows · warps], or null
  const float* probe;          ///< [probed · warps][kProbeSums], or null
  Summary* out;                ///< only what was given is written
  int64_t rows, probed;
  int32_t warps;
};

enum Join : int32_t {
  kJoinSoftmax = 0,
  kJoinMix = 1,
  kJoinSum = 2,
  kJoinLinear = 3,
  kJoinProject = 4
};  ///< O_s, a·O_s + (1-a)·O_l, O_s + O_l, O_l, O_s + O_l·projᵀ + bias
enum MixSource : int32_t { kMixConfigured = 0, kMixAffine = 1, kMixScalar = 2, kMixBlock = 3 };

/// sla2_attend_*: the whole forward of one query block. Grid (T_m, heads). sla2_hopper_*: as many blocks as there are
/// multiprocessors.
struct AttendParams {
  Rows q, out, gate;
  const unsigned char *keys, *values;              ///< tiles of a key head follow each other
  const unsigned char *features, *feature_values;  ///< of the linear branch: bf16 both
  const float *key_scale, *value_scale;            ///< int8 keys [key heads][scales]; fp8 values [key heads][W]
  const float* key_bias;                           ///< [N_k] natural, or null
  const int32_t *list, *count;                     ///< null: every block
  const int32_t *apart, *apart_count;              ///< [heads][T_m][apart_capacity]: not in the linear branch; null: none
  const float *state_total, *z_total, *z;          ///< of sla2_sum_totals and sla2_pack
  const float *rest_log_sum, *mix;                 ///< join mix
  const float *proj, *proj_bias;                   ///< join project: [D][D], [D]; or null: zeros
  const float* soft;                               ///< [heads][T_m][T_n] M of a soft mask: every block is listed; or null
  const float* coarse;                             ///< [heads][T_m][W], times gate; or null
  const uint32_t* kept_bits;                       ///< [heads][T_m][ceil(T_n / 32)], where there are mean tiles
  float* linear_shares;                            ///< [heads][T_m][warps] out: Σ over rows of 1 - a, or null
  const float* shift;                              ///< [key heads][D] where keys are minus their mean and lse is wanted; or null
  float* lse;                                      ///< [heads][N_q] out, or null
  float* probe;  ///< [heads][probes][warps][kProbeSums] out: compare with `out` instead of storing; or null
  int64_t query_tokens, key_tokens, capacity, apart_capacity;
  float scale, mix_scale, mix_bias;
  int32_t dim, block_q, block_k, query_blocks, key_blocks, heads, heads_per_key;
  int32_t tiles, key_tiles, mean_tiles;      ///< of a key head: all, of keys, of mean keys behind them
  int32_t tiles_per_block, blocks_per_tile;  ///< one of them is 1
  int32_t scales;
  int32_t soft_linear;  ///< the linear branch sees blocks by 1 - M
  int32_t probes;       ///< 0: every query block; else that many, evenly spread (the grid's x)
  int32_t join, mix_source, mix_by_lse;
  uint32_t turns;      ///< hopper: query blocks, or probes, of all heads; its blocks of threads share them out
  uint32_t stream_at;  ///< where in shared memory the linear branch's tiles arrive
};

}  // namespace sla2::cuda
