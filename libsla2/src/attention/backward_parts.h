// SPDX-License-Identifier: Apache-2.0
// The steps of one backward call, in the order in which backward.cpp runs them.
#pragma once
#include "attention/backward_workspace.h"
#include "attention/forward.h"

namespace sla2::attention {

struct BackwardCall {
  const BackwardShape& shape;
  const kernels::AttentionOps& ops;
  const BackwardWorkspace& space;
  const Backward& in;
  bool again;          ///< O_s and its log-sum-exp are computed again
  bool coarse;         ///< VSA's coarse branch is there
  int64_t first_unit;  ///< of the group at work
  int64_t count;       ///< units in this group

  [[nodiscard]] int64_t unit_index(int64_t in_group) const { return first_unit + in_group; }
  /// b · H + h of query block u.
  [[nodiscard]] int64_t head_of(int64_t in_group, int64_t u) const {
    return unit_index(in_group) * shape.sharing + u / shape.query_blocks;
  }
};

/// Bits of UnitBuffers::state.
constexpr uint8_t kKept = 1, kNotLinear = 2, kDropped = 4;
constexpr double kBackwardLog2E = 1.4426950408889634;

/// Σ x·y in fp64, in eight interleaved sums: one alone would wait for each addition.
template <typename X, typename Y>
[[nodiscard]] double dot(const X* x, const Y* y, int64_t count) {
  constexpr int64_t kSums = 8;  // D is a multiple of it, keys are not
  double sum[kSums] = {};
  int64_t c = 0;
  for (; c + kSums <= count; c += kSums)
    for (int64_t i = 0; i < kSums; ++i) sum[i] += static_cast<double>(x[c + i]) * static_cast<double>(y[c + i]);
  for (; c < count; ++c) sum[0] += static_cast<double>(x[c]) * static_cast<double>(y[c]);
  return ((sum[0] + sum[1]) + (sum[2] + sum[3])) + ((sum[4] + sum[5]) + (sum[6] + sum[7]));
}

/// each(call, unit in group, item, worker's scratch) for every item of every unit. Two captures: std::function needs no heap.
template <typename Each>
void for_units(const BackwardCall& call, int64_t items, const Each& each) {
  struct Job {
    const BackwardCall& call;
    int64_t items;
    const Each& each;
  } const job{call, items, each};
  parallel_for(call.count * items, [&job](int64_t index, int worker) {
    job.each(job.call, index / job.items, index % job.items, job.call.space.worker(worker));
  });
}

/// Block means, the mean key, operands of the tiles, φ, h_j, z_j, totals; of the whole group.
void backward_keys(const BackwardCall& call);
/// One query block: everything that needs no other query block. Leaves the linear branch's part in d_q.
void backward_queries(const BackwardCall& call, int64_t unit, int64_t u, const BackwardWorker& w);
/// K̄·W_k of each head of a unit.
void backward_key_scores(const BackwardCall& call, int64_t unit, const BackwardWorker& w);
/// R of a query block, its soft mask, VSA's coarse output.
void backward_scores(const BackwardCall& call, const UnitBuffers& buffers, int64_t unit, int64_t u, const BackwardWorker& w);
/// Sums over the key blocks that the linear branch of u sees, O_l, 1 / denominator. φ(Q) in x2.
void linear_forward(const BackwardCall& call, const UnitBuffers& buffers, int64_t u, const Blocks& in, const Blocks& out,
                    const BackwardWorker& w);
/// From dO_l in x3 and D_l: dH, dZ, and through φ into d_q. φ(Q) in x2 is used up.
void linear_backward(const BackwardCall& call, const UnitBuffers& buffers, int64_t u, const BackwardWorker& w);
/// state [D][W] = leftᵀ·right over n rows of each, [n, D].
void outer_product(const BackwardCall& call, int64_t n, const float* left, const float* right, float* state,
                   const BackwardWorker& w);
/// Totals of dH and dZ over the query blocks of each unit.
void linear_totals(const BackwardCall& call);
/// What key block j receives through the linear branch: the first that is written into d_k and d_v.
void linear_keys(const BackwardCall& call, int64_t unit, int64_t j, const BackwardWorker& w);
/// Bias of query block u on key block j in base 2: soft weights, pooled keys; null where none. `tail`: also where keys end.
const float* tile_bias(const BackwardCall& call, const UnitBuffers& buffers, int64_t u, int64_t j, bool tail, float* bias);
/// rows [n][W] to a caller's tensor.
void write_rows(const BackwardCall& call, const float* rows, int64_t n, const MutableOperand& out, int64_t head, int64_t heads,
                int64_t first, const BackwardWorker& w);
/// Every kept pair, once; all units of the group.
void backward_tiles(const BackwardCall& call);
/// Through R: gradients of block means, of W_q and W_k.
void backward_router(const BackwardCall& call);
/// K − μ takes its own mean away; out to the caller.
void finish_gradients(const BackwardCall& call);

}  // namespace sla2::attention
