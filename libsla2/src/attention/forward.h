// SPDX-License-Identifier: Apache-2.0
// The parts of one forward call: plan.cpp runs prepare.cpp once per group of key heads and query_block.cpp for each block; that
// one goes through route.cpp, softmax_branch.cpp, linear_branch.cpp and join.cpp.
#pragma once
#include "attention/geometry.h"
#include "attention/workspace.h"
#include "kernels/attention_ops.h"
#include "kernels/block_gather.h"

namespace sla2::attention {

struct Call {
  const Geometry& geometry;
  const kernels::AttentionOps& ops;
  const Workspace& workspace;
  const Forward& in;
  bool route_only;     ///< blocks are chosen and nothing else: values and out are not touched
  int64_t first_head;  ///< first key head of the group at work; buffers of key head h are workspace.head(h - first_head)
  int64_t group;       ///< key heads in this group
};

/// Rows of head `head` = b · heads + h of an operand with `heads` heads.
[[nodiscard]] inline kernels::RowSource rows_of(const Operand& operand, int64_t head, int64_t heads) {
  const int64_t at = head / heads * operand.stride_batch + head % heads * operand.stride_head;
  const auto* const bytes = static_cast<const std::byte*>(operand.data) + at * static_cast<int64_t>(dtype_size(operand.dtype));
  return {bytes, operand.dtype, operand.stride_token};
}

/// Where one query block stands: `head` counts query heads over the batch.
struct Place {
  int64_t head, block;
  int64_t first, rows;  ///< query rows [first, first + rows)
};

/// Pack keys and values of the group; in sparse modes also pool, smooth, and for a linear branch φ, h, z and their totals. Runs
/// threads.
void prepare_group(const Call& call);
/// Fill what does not depend on the head: bias rows, block numbers, packed projection. Once per call.
void prepare_call(const Call& call);
/// One query block; `key_head` counts from the group's first. Writes its rows of everything the call wants.
void run_query_block(const Call& call, int64_t key_head, const Place& place, const WorkerBuffers& worker);

// prepare_extras.cpp: what single modes and routers need beside.
/// Mean cosine over all pairs of keys of the block: ‖mean of unit rows‖².
[[nodiscard]] double self_similarity(const float* rows, int64_t n, int64_t dim, double* sum);
/// Means of a block's values, into mean_values.
void pool_values(const Call& call, int64_t key_head, int64_t block, const WorkerBuffers& w);
/// Pooled mode: the mean keys and values of blocks as keys and values behind the last block.
void pack_mean_block(const Call& call, int64_t key_head, int64_t mean_block, const WorkerBuffers& w);
/// sla1: the projection as right-hand side of O_l · projᵀ.
void pack_projection(const Call& call);

/// A list of key blocks. index null: blocks 0 … count - 1.
struct Blocks {
  const int32_t* index = nullptr;
  int64_t count = 0;
};

/// Which key blocks one query block sees in which branch.
struct Selection {
  Blocks kept;                             ///< M = 1, ascending; all where the mask is soft
  Blocks linear;                           ///< linear branch
  Blocks not_linear;                       ///< all others: the linear branch may also be summed as totals minus these
  const double* linear_weights = nullptr;  ///< [T_n] soft mask: 1 - M; the linear branch sees every block with its weight
  double weight = 0;                       ///< Σ M
};

/// R of the block in w.routes (from unscaled queries), then the blocks of each branch, in w.order.
[[nodiscard]] Selection route(const Call& call, const HeadBuffers& head, const Place& place, const float* q_rows,
                              const WorkerBuffers& w);
/// SoftTop-k: M = σ(R/τ + λ) with Σ M = keep.
void soft_top_k(int64_t count, int64_t keep, double tau, const double* scores, double* mask);

/// Columns of the softmax branch.
struct Keys {
  Blocks blocks;
  int64_t tokens = 0;           ///< columns in all: a block past them is ragged
  const float* bias = nullptr;  ///< [blocks · bk] added to the logits, base 2; null: none (a ragged last block is masked)
};
/// The kept blocks; the mean keys of the others behind them in pooled mode; log M as bias where the mask is soft.
[[nodiscard]] Keys softmax_keys(const Call& call, const Selection& selection, const WorkerBuffers& w);
/// Over these keys, from w.q. Leaves Σ p·v in acc, m and l in base 2.
void softmax_branch(const Call& call, const HeadBuffers& head, int64_t n, const Keys& keys, const WorkerBuffers& w);

/// From unscaled queries (w.q_phi; w.q with bf16 products). Numerator φ(q)·H in w.linear; 1 / denominator in w.w_linear, 0 where
/// φ(q) meets no key at all.
void linear_branch(const Call& call, const HeadBuffers& head, int64_t n, const Selection& selection, const WorkerBuffers& w);
/// Σ_j weights[j] · blocks[j · stride + i] in fp64, i < size.
void weighted_block_sum(int64_t size, const float* blocks, int64_t stride, int64_t count, const double* weights, double* out);
/// Turn l and 1/denominator into the weights a / l and (1 - a) / denominator. @return Σ rows (1 - a)
double mix(const Call& call, const Place& place, const Selection& selection, const WorkerBuffers& w);

/// How w.acc, w.linear and w.extra lie: 16 channels at p · panel + r · row.
struct BranchLayout {
  int64_t row, panel;
};
[[nodiscard]] inline BranchLayout branch_layout(const Geometry& g, int64_t n) {
  if (g.bf16) return {g.panels * kernels::kPanel, kernels::kPanel};
  return {kernels::kPanel, n * kernels::kPanel};
}

// join.cpp: from the branches to rows of out.
/// sla1: w.extra = O_l · projᵀ + bias.
void project_linear(const Call& call, int64_t n, const WorkerBuffers& w);
/// vsa: adds gate ⊙ (softmax(R)·V̄) to the linear branch; w.extra is their sum.
void add_coarse_branch(const Call& call, const HeadBuffers& head, const Place& place, bool has_linear, const WorkerBuffers& w);

// outputs.cpp: what a call may want beside out.
void write_list(const Call& call, const Place& place, const Blocks& kept);
/// Full and linear_only, whose tiles are not the configured blocks: all blocks, or none, in every row.
void write_whole_list(const Geometry& g, const BlockList& list);
/// s · q · μ of each row, from unscaled queries: what subtracting the mean key took from the logits.
void start_lse(const Call& call, const HeadBuffers& head, const Place& place, const float* q_rows);
/// Adds m and l of the softmax branch.
void finish_lse(const Call& call, const Place& place, const WorkerBuffers& w);
[[nodiscard]] bool is_probed(const Geometry& g, double fraction, int64_t block);
/// Full attention on the block against what stands in out; overwrites the softmax branch.
void probe_block(const Call& call, const HeadBuffers& head, const Place& place, const WorkerBuffers& w);
/// All probed blocks together, in a fixed order.
void finish_probe(const Geometry& g, const Workspace& space, Probe& probe);

}  // namespace sla2::attention
