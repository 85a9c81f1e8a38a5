// SPDX-License-Identifier: Apache-2.0
// Where everything lies in the caller's workspace. Sizes follow from the geometry and the number of worker slots alone.
// Letters: D channels, P = ceil(D/16) panels, bq and bk block sizes, T_n key blocks.
#pragma once
#include <cstddef>

#include "attention/cursor.h"
#include "attention/geometry.h"
#include "attention/part_clock.h"

namespace sla2::attention {

/// What the query blocks that share a key head read. Only keys and values exist in full mode; h and z with a linear branch.
/// In pooled mode keys and values have more blocks, of the means.
struct HeadBuffers {
  float* keys;           ///< [T_n][bk/16][D][16], minus the mean key in sparse modes; fp32 products
  float* values;         ///< [T_n][P][bk][16]; fp32 products
  bf16_t* keys_bf16;     ///< [T_n][D/2][bk][2], minus the mean key in sparse modes; bf16 products
  bf16_t* values_bf16;   ///< [T_n][bk/2][P·16][2]; bf16 products
  uint8_t* keys_int8;    ///< [T_n][D/4][bk][4], minus the mean key; 8 bits
  float* key_scale;      ///< [T_n]; 8 bits
  uint8_t* values_fp8;   ///< [T_n][bk][P·16]; this and the next two: FP8 values
  float* value_scale;    ///< [P·16]
  float* largest_value;  ///< [D]
  float* means;          ///< [D][route_row] block means of keys, minus the mean key
  float* shift;          ///< [D] mean key
  float* h;              ///< [T_n][P][D][16] h_j = φ(K_j)ᵀ V_j; linear branch in fp32
  bf16_t* h_bf16;        ///< [T_n][D/2][P·16][2]; linear branch in bf16
  float* z;              ///< [T_n][D] z_j = column sums of φ(K_j)
  double* h_total;       ///< [P][D][16]; linear branch in fp32
  float* h_wide_total;   ///< [D/2][P][2][16]; linear branch in bf16
  double* z_total;       ///< [D]
  float* mean_values;    ///< [T_n][D]; pooled mode and router vsa
  double* likeness;      ///< [T_n] self-similarity of key blocks; router sparge
};

/// Scratch of one worker. Only the first group exists in full mode.
struct WorkerBuffers {
  PartClock* clock;
  float* q;                           ///< [bq][D] queries times softmax scale and log2 e; room for [P][bq][16]
  float* tile;                        ///< [bq][bk] logits, then weights; fp32 products
  float* acc;                         ///< sparse branch: [P][bq][16]; with bf16 products [bq][P·16]
  float* rows;                        ///< [bk][D] rows being packed; where acc is
  float *m, *l, *rescale, *w_sparse;  ///< [bq]
  bf16_t* q_bf16;                     ///< [bq][D]; this and the next three: bf16 products
  bf16_t* weights_bf16;               ///< [bq][bk]
  float* sums;                        ///< [bq][16]
  int8_t* q_int8;                     ///< [bq][D]; this and the next two: 8 bits
  float* q_scale;                     ///< [bq]
  int32_t* q_offset;                  ///< [bq]
  float* value_scale;                 ///< [P·16] written again by each block packed; FP8 values

  float* q_phi;            ///< [bq][D]; linear branch in fp32
  float* q_mean;           ///< [D]
  float* linear;           ///< linear branch before division: [P][bq][16]; with bf16 products [bq][P·16]
  float* h_left;           ///< [D][16] one panel of H; linear branch in fp32
  float* w_linear;         ///< [bq]
  double* h_sum;           ///< [D][16]; linear branch in fp32
  float* value_panels;     ///< [P][bk][16] values of the block being prepared; linear branch in fp32 beside 8 bits
  bf16_t* q_features;      ///< [bq][D] φ(Q), where q_bf16 is; this and the next two: linear branch in bf16
  bf16_t* key_features;    ///< [bk/2][P·16][2] φ(K) of the block being prepared
  bf16_t* h_left_bf16;     ///< [D/2][P·16][2] H
  double* z_sum;           ///< [D]
  double *z_rest, *z_all;  ///< [bq] φ(q)·Z and φ(q)·z over all keys
  double* routes;          ///< [route_row]
  int32_t* order;          ///< [T_n]

  // Single modes and routers; null elsewhere.
  double* line;            ///< [2][D]
  float* q_projected;      ///< [D] q_mean through the router's matrices
  double* identity;        ///< [route_row] scores without them
  uint8_t* marks;          ///< [T_n]; this and the next two: rules beside top-k
  int32_t* ranked;         ///< [T_n]
  double* share;           ///< [T_n]
  double* mask;            ///< [T_n] M; this and the next: a soft mask
  double* linear_weights;  ///< [T_n] 1 - M
  float* bias;             ///< [T_n + blocks of means][bk] base 2; a soft mask and pooled mode
  int32_t* key_list;       ///< [T_n + blocks of means]; pooled mode
  float* extra;            ///< as `linear`, where q is: what is added to the softmax branch; sla1 and router vsa
  float* rows_q;           ///< [bq][D]; router vsa
};

/// Offsets into one block; the same walk counts bytes (null base) and hands out pointers.
class Workspace {
 public:
  /// slots: how many workers may run at once.
  Workspace(const Geometry& geometry, int slots, std::byte* base);

  [[nodiscard]] uint64_t bytes() const noexcept { return bytes_; }
  [[nodiscard]] HeadBuffers head(int64_t index) const;
  [[nodiscard]] WorkerBuffers worker(int index) const;
  float* bias = nullptr;            ///< [T_n][bk] key bias · log2 e, -inf where no key is; full mode
  float* tail_bias = nullptr;       ///< [bk] the same for the last block without a key bias
  double* linear_weight = nullptr;  ///< [heads][T_m] sum of 1 - a over rows; SLA2 mode
  double* kept = nullptr;           ///< [heads][T_m] blocks kept, by weight; sparse modes
  static constexpr int64_t kProbeSums = 5;
  double* probe_sums = nullptr;      ///< [heads][T_m][5]
  float* projection = nullptr;       ///< [P][D][16] sla1
  float* projection_bias = nullptr;  ///< [P·16]
  int32_t* all_blocks = nullptr;     ///< [T_n] 0, 1, 2 …
  PartClock* clocks = nullptr;       ///< [slots]

 private:
  void place_head(Cursor& cursor, HeadBuffers& head) const;
  void place_worker(Cursor& cursor, WorkerBuffers& worker) const;
  void place_extras(Cursor& cursor, WorkerBuffers& worker) const;

  const Geometry* geometry_;
  std::byte* heads_ = nullptr;
  std::byte* workers_ = nullptr;
  uint64_t head_bytes_ = 0, worker_bytes_ = 0, bytes_ = 0;
};

}  // namespace sla2::attention
