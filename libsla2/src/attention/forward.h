// SPDX-License-Identifier: Apache-2.0
// The parts of one forward call, shared by prepare.cpp, query_block.cpp and plan.cpp.
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

}  // namespace sla2::attention
