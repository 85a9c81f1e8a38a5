// SPDX-License-Identifier: Apache-2.0
// The parts of one forward call: plan.cpp runs prepare.cpp once per group of heads and query_block.cpp for each block; that
// one goes through route.cpp, softmax_branch.cpp, linear_branch.cpp and mix.cpp.
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
  Operand q, k, v;
  MutableOperand out;
  const float* key_bias;
  int64_t first_head;  ///< of the group at work; buffers of head h are workspace.head(h - first_head)
  int64_t group;       ///< heads in this group
};

/// Rows of head `head` = b · H + h of an operand.
[[nodiscard]] inline kernels::RowSource rows_of(const Operand& operand, int64_t head, int64_t heads) {
  const int64_t at = head / heads * operand.stride_batch + head % heads * operand.stride_head;
  const auto* const bytes = static_cast<const std::byte*>(operand.data) + at * static_cast<int64_t>(dtype_size(operand.dtype));
  return {bytes, operand.dtype, operand.stride_token};
}

/// Pack keys and values of the group; in SLA2 mode also pool, smooth, φ, h, z and their totals. Runs threads.
void prepare_group(const Call& call);
/// Fill the bias rows that do not depend on the head. Once per call.
void prepare_bias(const Call& call);
/// One query block of one head of the group; writes its rows of out.
void run_query_block(const Call& call, int64_t head_in_group, int64_t block, const WorkerBuffers& worker);

/// A list of key blocks, ascending. index null: blocks 0 … count - 1.
struct Blocks {
  const int32_t* index = nullptr;
  int64_t count = 0;
};

/// Which key blocks one query block sees in which branch.
struct Selection {
  Blocks kept;        ///< softmax branch
  Blocks linear;      ///< linear branch
  Blocks not_linear;  ///< all others: the linear branch may also be summed as totals minus these
};

/// R of the block in w.routes, then the blocks of each branch, in w.order.
[[nodiscard]] Selection route(const Call& call, const HeadBuffers& head, int64_t n, const float* q_rows, const WorkerBuffers& w);
/// Over the kept blocks, from w.q. Leaves Σ p·v in acc, m and l in base 2.
void softmax_branch(const Call& call, const HeadBuffers& head, int64_t n, const Blocks& kept, const WorkerBuffers& w);
/// From queries in w.q_phi. Numerator φ(q)·H in w.linear; 1 / denominator in w.w_linear, 0 where φ(q) meets no key at all.
void linear_branch(const Call& call, const HeadBuffers& head, int64_t n, const Selection& selection, const WorkerBuffers& w);
/// Turn l and 1/denominator into the weights a / l and (1 - a) / denominator. @return Σ rows (1 - a)
double mix(const Geometry& g, int64_t n, const WorkerBuffers& w);

}  // namespace sla2::attention
