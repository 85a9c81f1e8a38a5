// SPDX-License-Identifier: Apache-2.0
// One query block of one head, start to end: route, softmax over its keys, linear branch, join.
// Everything it touches beside the head's packed arrays is in one worker's scratch (about 300 KB at D 128: fits L2).
#include "attention/forward.h"

namespace sla2::attention {
namespace {

constexpr double kLog2E = 1.4426950408889634;

void load_queries(const Call& call, const Place& place, float scale, float* rows) {
  const Geometry& g = call.geometry;
  call.ops.load_rows(rows_of(call.in.q, place.head, g.config.heads), place.first, place.rows, g.dim, scale, rows);
}

/// Into w.q, as the softmax branch reads them.
void load_softmax_queries(const Call& call, const Place& place, const WorkerBuffers& w) {
  load_queries(call, place, call.geometry.bf16 ? 1.0F : static_cast<float>(call.geometry.scale * kLog2E), w.q);
}

/// Where unscaled queries lie. bf16 products scale the logits instead, so that queries that came as bf16 stay exact.
float* plain_queries(const Geometry& g, const WorkerBuffers& w) { return g.bf16 ? w.q : w.q_phi; }

Selection select(const Call& call, const HeadBuffers& head, const Place& place, const WorkerBuffers& w) {
  const Geometry& g = call.geometry;
  if (g.mode == Mode::kFull) return {{nullptr, g.key_blocks}, {}, {}};
  load_queries(call, place, 1.0F, plain_queries(g, w));
  if (g.mode == Mode::kLinearOnly) return {{}, {call.workspace.all_blocks, g.key_blocks}, {}};
  const Selection selection = route(call, head, place, plain_queries(g, w), w);
  call.workspace.kept[place.head * g.query_blocks + place.block] = selection.weight;
  if (call.in.list != nullptr) write_list(call, place, selection.kept);
  return selection;
}

/// The branches and what weighs them. @return what merge_rows reads
kernels::MergeInput run_branches(const Call& call, const HeadBuffers& head, const Place& place, const Selection& selection,
                                 const WorkerBuffers& w) {
  const Geometry& g = call.geometry;
  const int64_t n = place.rows;
  kernels::MergeInput merge{w.acc, w.w_sparse};
  if (g.bf16) merge.row = g.panels * kernels::kPanel;
  const bool softmax = g.mode != Mode::kLinearOnly;
  if (softmax) softmax_branch(call, head, n, softmax_keys(call, selection, w), w);
  w.clock->lap(Part::kSparse);
  if (g.linear) {
    linear_branch(call, head, n, selection, w);
    w.clock->lap(Part::kLinear);
    merge.linear = w.linear;
    merge.w_linear = w.w_linear;
  }
  if (g.mode == Mode::kSla2) {
    call.workspace.linear_weight[place.head * g.query_blocks + place.block] = mix(call, place, selection, w);
  } else {
    for (int64_t r = 0; r < n; ++r) w.w_sparse[r] = !softmax || w.l[r] == 0 ? 0.0F : 1.0F / w.l[r];  // every key masked: 0
  }
  if (g.mode == Mode::kSla1) {
    project_linear(call, n, w);
    merge.linear = w.extra;
  }
  if (call.in.parameters.gate.data != nullptr) {
    add_coarse_branch(call, head, place, g.linear, w);
    merge.linear = w.extra;
    merge.w_linear = w.w_linear;
  }
  return merge;
}

}  // namespace

void run_query_block(const Call& call, int64_t key_head, const Place& place, const WorkerBuffers& w) {
  const Geometry& g = call.geometry;
  const HeadBuffers head = call.workspace.head(key_head);
  w.clock->start();
  const Selection selection = select(call, head, place, w);
  w.clock->lap(Part::kRouter);
  if (call.route_only) return;
  if (!g.bf16 || g.mode == Mode::kFull) load_softmax_queries(call, place, w);
  w.clock->lap(Part::kPack);
  if (call.in.lse != nullptr) start_lse(call, head, place, g.mode == Mode::kFull ? w.q : plain_queries(g, w));
  const kernels::MergeInput merge = run_branches(call, head, place, selection, w);
  const MutableOperand& out = call.in.out;
  const int64_t at = place.head / g.config.heads * out.stride_batch + place.head % g.config.heads * out.stride_head +
                     place.first * out.stride_token;
  auto* const rows = static_cast<std::byte*>(out.data) + at * static_cast<int64_t>(dtype_size(out.dtype));
  call.ops.merge_rows(merge, place.rows, g.dim, rows, out.dtype, out.stride_token);
  if (call.in.lse != nullptr) finish_lse(call, place, w);
  w.clock->lap(Part::kMix);
  if (call.in.probe == nullptr || !is_probed(g, call.in.probe->fraction, place.block)) return;
  if (w.extra != nullptr) load_softmax_queries(call, place, w);
  probe_block(call, head, place, w);
}

}  // namespace sla2::attention
