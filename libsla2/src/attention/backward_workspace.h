// SPDX-License-Identifier: Apache-2.0
// Where backward keeps what. Sizes follow from the shape and the number of worker slots alone.
// Letters: D channels, P panels of 16, W = 16·P, bq and bk block sizes, U query blocks of a unit, T_n key blocks, T_a those and
// the blocks of mean keys, R query heads of a unit. Packed layouts: kernels/block_gather.h, kernels/attend_bf16.h.
#pragma once
#include <cstddef>

#include "attention/backward.h"
#include "attention/cursor.h"

namespace sla2::attention {

/// Operands of the tiles, in fp32 or in bf16.
template <typename T>
struct Packed {
  T *k_lines, *v_lines;    ///< per key block as right-hand side of Q·Kᵀ and dO·Vᵀ
  T *k_panels, *v_panels;  ///< per key block as right-hand side of dS·K and P·V (the latter: bf16, where O is computed again)
  T *q_rows, *g_rows;      ///< [U][bq][D] queries (fp32: in base 2) and dO
  T *q_panels, *g_panels;  ///< per query block as right-hand side of dSᵀ·Q and Pᵀ·dO
};

struct UnitBuffers {
  Packed<float> f32;
  Packed<bf16_t> bf16;
  float *d_k, *d_v;       ///< [T_a][bk][W]
  float* d_q;             ///< [U][bq][W]
  float *top, *weight;    ///< [U][bq] P = weight · 2^(logit − top), a included: largest logit and a / Σ, or log-sum-exp and a
  float* mean;            ///< [U][bq] dO·O_s
  uint8_t* state;         ///< [T_n][U] kKept, kNotLinear
  float* means;           ///< [D][route_row] block means of K − μ
  float* shift;           ///< [D] μ
  float* q_means;         ///< [U][D]
  double* column_sums;    ///< [T_n][D] of what K − μ receives
  double* mean_gradient;  ///< [D] its mean over all keys

  float *h, *z;                ///< [T_n][D][W], [T_n][D]
  double *h_total, *z_total;   ///< [D][W], [D]
  float *d_h, *d_z, *d_floor;  ///< [U][D][W], [U][D]; gradient of z over all keys where a denominator was floored
  double *d_h_total, *d_z_total, *d_floor_total;
  float* d_proj;        ///< [U][P][D][16]
  double* d_proj_bias;  ///< [U][D]

  double *mask, *d_logit;                                ///< [U][T_n] SoftTop-k
  double *scores, *d_scores;                             ///< [U][T_n] R
  double *left, *right;                                  ///< [U][D] Q̄·W_q; [R][T_n][D] K̄·W_k
  double *d_left, *d_right;                              ///< the same shapes
  double *d_mean_q, *d_mean_k, *d_mean_v;                ///< [U][D], [T_n][D] twice: of block means
  double *coarse_weights, *coarse, *d_coarse, *v_means;  ///< [U][T_n], [U][D], [U][D], [T_n][D]
};

struct BackwardWorker {
  float *s, *d;                         ///< [bq][bk] tiles
  bf16_t *p_pairs, *ds_pairs, *ds;      ///< [bq][bk]
  bf16_t* weights;                      ///< [bq][bk]
  float* sums;                          ///< [bq][16]
  float *x0, *x1, *x2, *x3;             ///< [max(bq, bk)][D] rows
  float* panels;                        ///< [P][max(bq, bk)][16]
  float* acc;                           ///< [P][bq][16], or [bq][W]
  float *o_linear, *d_phi;              ///< [max(bq, bk)][W]
  float *m, *l, *rescale, *ones;        ///< [max(bq, bk)]
  float* bias;                          ///< [bk]
  double *a, *inverse, *d_linear_mean;  ///< [bq]
  double* dots;                         ///< [max(bq, bk)]
  double *log_sum, *d_sum;              ///< [bq] log-sum-exp, natural; Σ 2^(logit − top)·dP
  uint8_t* floored;                     ///< [bq]
  float* h;                             ///< [D][W]
  float* h_panels;                      ///< [W][W] h or its transpose as right-hand side in fp32
  bf16_t *left, *right;                 ///< [max(bq, bk)][W], [max(bq, bk, W)][W] the linear branch's operands in bf16
  double *h_sum, *z_sum;                ///< [D][16], [D]
  double* routes;                       ///< [route_row]
  int32_t *in, *out;                    ///< [max(T_n, U)] blocks in and not in the linear branch
};

class BackwardWorkspace {
 public:
  BackwardWorkspace(const BackwardShape& shape, int slots, std::byte* base);
  [[nodiscard]] uint64_t bytes() const noexcept { return bytes_; }
  [[nodiscard]] UnitBuffers unit(int64_t index) const;
  [[nodiscard]] BackwardWorker worker(int index) const;

  int32_t* all_blocks = nullptr;              ///< [max(T_n, U)] 0, 1, 2 …
  float* proj = nullptr;                      ///< [P][D][16] as right-hand side of dO·Proj
  double* d_mix = nullptr;                    ///< [B·H][T_m][2] of a's scale and bias
  double* d_proj = nullptr;                   ///< [P][D][16]
  double* d_proj_bias = nullptr;              ///< [D]
  double *d_w_q = nullptr, *d_w_k = nullptr;  ///< [H][D][D]

 private:
  void place_unit(Cursor& cursor, UnitBuffers& unit) const;
  void place_worker(Cursor& cursor, BackwardWorker& worker) const;

  const BackwardShape* shape_;
  std::byte* units_ = nullptr;
  std::byte* workers_ = nullptr;
  uint64_t unit_bytes_ = 0, worker_bytes_ = 0, bytes_ = 0;
};

}  // namespace sla2::attention
