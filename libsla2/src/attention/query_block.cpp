// SPDX-License-Identifier: Apache-2.0
// One query block of one head, start to end: route, softmax over the kept key blocks, linear branch over the others, mix.
// Everything it touches beside the head's packed arrays is in one worker's scratch (about 300 KB at D 128: fits L2).
#include "attention/forward.h"

namespace sla2::attention {
namespace {

constexpr double kLog2E = 1.4426950408889634;

}  // namespace

void run_query_block(const Call& call, int64_t head_in_group, int64_t block, const WorkerBuffers& w) {
  const Geometry& g = call.geometry;
  const HeadBuffers head = call.workspace.head(head_in_group);
  const int64_t head_index = call.first_head + head_in_group;
  const int64_t first = block * g.block_q, n = g.query_rows(block);
  const kernels::RowSource queries = rows_of(call.q, head_index, g.config.heads);
  // bf16 products scale the logits instead, so that queries that came as bf16 stay exact.
  call.ops.load_rows(queries, first, n, g.dim, g.bf16 ? 1.0F : static_cast<float>(g.scale * kLog2E), w.q);
  Selection selection{{nullptr, g.kept}, {}, {}};
  if (g.mode == Mode::kSla2) {
    if (!g.bf16) call.ops.load_rows(queries, first, n, g.dim, 1.0F, w.q_phi);
    selection = route(call, head, n, g.bf16 ? w.q : w.q_phi, w);
  }
  softmax_branch(call, head, n, selection.kept, w);
  kernels::MergeInput merge{w.acc, w.w_sparse};
  if (g.bf16) merge.row = g.panels * kernels::kPanel;
  if (g.mode == Mode::kFull) {
    for (int64_t r = 0; r < n; ++r) w.w_sparse[r] = w.l[r] == 0 ? 0.0F : 1.0F / w.l[r];  // every key masked: 0
  } else {
    linear_branch(call, head, n, selection, w);
    call.workspace.linear_weight[head_index * g.query_blocks + block] = mix(g, n, w);
    merge.linear = w.linear;
    merge.w_linear = w.w_linear;
  }
  const int64_t at = head_index / g.config.heads * call.out.stride_batch + head_index % g.config.heads * call.out.stride_head +
                     first * call.out.stride_token;
  auto* const out = static_cast<std::byte*>(call.out.data) + at * static_cast<int64_t>(dtype_size(call.out.dtype));
  call.ops.merge_rows(merge, n, g.dim, out, call.out.dtype, call.out.stride_token);
}

}  // namespace sla2::attention
