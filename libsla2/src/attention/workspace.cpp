// SPDX-License-Identifier: Apache-2.0
#include "attention/workspace.h"

#include <algorithm>

#include "attention/rules.h"
#include "kernels/panel_gemm.h"

namespace sla2::attention {

using kernels::kPanel;

void Workspace::place_head(Cursor& cursor, HeadBuffers& head) const {
  const Geometry& g = *geometry_;
  const int64_t blocks = g.key_blocks + g.mean_blocks;
  head = {};
  const int64_t keys = blocks * g.block_k, width = g.panels * kPanel, state = g.dim * width;
  if (g.int8) {
    cursor.take(head.keys_int8, keys * g.dim);
    cursor.take(head.key_scale, blocks);
  } else if (g.bf16) {
    cursor.take(head.keys_bf16, keys * g.dim);
  } else {
    cursor.take(head.keys, keys * g.dim);
  }
  g.bf16 ? cursor.take(head.values_bf16, keys * width) : cursor.take(head.values, keys * width);
  if (g.fp8) {
    cursor.take(head.values_fp8, keys * width);
    cursor.take(head.value_scale, width);
    cursor.take(head.largest_value, g.dim);
  }
  if (g.centred()) {
    cursor.take(head.means, g.dim * g.route_row);
    cursor.take(head.shift, g.dim);
  }
  if (g.mode == Mode::kFull) return;
  if (g.pools_values()) cursor.take(head.mean_values, g.key_blocks * g.dim);
  if (g.config.router == Router::kSparge) cursor.take(head.likeness, g.key_blocks);
  if (!g.linear) return;
  if (g.linear_bf16) {
    cursor.take(head.h_bf16, g.key_blocks * state);
    cursor.take(head.h_wide_total, state);
  } else {
    cursor.take(head.h, g.key_blocks * state);
    cursor.take(head.h_total, state);
  }
  cursor.take(head.z, g.key_blocks * g.dim);
  cursor.take(head.z_total, g.dim);
}

void Workspace::place_worker(Cursor& cursor, WorkerBuffers& worker) const {
  const Geometry& g = *geometry_;
  const int64_t block = g.block_q * g.panels * kPanel;
  worker = {};
  cursor.take(worker.q, block);
  cursor.take(worker.acc, std::max(block, g.block_k * g.dim));
  worker.rows = worker.acc;  // no query block runs while keys and values are packed
  if (g.bf16) {
    if (g.int8) {
      cursor.take(worker.q_int8, g.block_q * g.dim);
      cursor.take(worker.q_scale, g.block_q);
      cursor.take(worker.q_offset, g.block_q);
      if (g.fp8) cursor.take(worker.value_scale, g.panels * kPanel);
    } else {
      cursor.take(worker.q_bf16, g.block_q * g.dim);
    }
    cursor.take(worker.weights_bf16, g.block_q * g.block_k);
    cursor.take(worker.sums, g.block_q * kPanel);
  } else {
    cursor.take(worker.tile, g.block_q * g.block_k);
  }
  for (float** const one : {&worker.m, &worker.l, &worker.rescale, &worker.w_sparse}) cursor.take(*one, g.block_q);
  if (g.mode == Mode::kFull) return;
  if (!g.bf16 || (g.linear && !g.linear_bf16)) cursor.take(worker.q_phi, g.block_q * g.dim);
  cursor.take(worker.q_mean, g.dim);
  cursor.take(worker.routes, g.route_row);
  cursor.take(worker.order, g.key_blocks);
  place_extras(cursor, worker);
  cursor.take(worker.w_linear, g.block_q);
  if (!g.linear) return;
  cursor.take(worker.linear, block);
  cursor.take(worker.z_sum, g.dim);
  cursor.take(worker.z_rest, g.block_q);
  cursor.take(worker.z_all, g.block_q);
  if (g.linear_bf16) {
    worker.q_features = worker.q_bf16;  // the softmax branch has read them
    if (g.int8) cursor.take(worker.q_features, g.block_q * g.dim);
    cursor.take(worker.key_features, g.block_k * g.panels * kPanel);
    cursor.take(worker.h_left_bf16, g.dim * g.panels * kPanel);
  } else {
    cursor.take(worker.h_left, g.dim * kPanel);
    cursor.take(worker.h_sum, g.dim * kPanel);
    if (g.bf16) cursor.take(worker.value_panels, g.panels * g.block_k * kPanel);
  }
}

void Workspace::place_extras(Cursor& cursor, WorkerBuffers& worker) const {
  const Geometry& g = *geometry_;
  cursor.take(worker.line, 2 * g.dim);
  cursor.take(worker.q_projected, g.dim);
  cursor.take(worker.identity, g.route_row);
  if (!is_plain_top_k(g)) {
    cursor.take(worker.marks, g.key_blocks);
    cursor.take(worker.ranked, g.key_blocks);
    cursor.take(worker.share, g.key_blocks);
  }
  if (g.soft) {
    cursor.take(worker.mask, g.key_blocks);
    cursor.take(worker.linear_weights, g.key_blocks);
  }
  if (g.soft || g.pooled) cursor.take(worker.bias, (g.key_blocks + g.mean_blocks) * g.block_k);
  if (g.pooled) cursor.take(worker.key_list, g.key_blocks + g.mean_blocks);
  if (g.mode == Mode::kSla1 || g.config.router == Router::kVsa) worker.extra = worker.q;  // both branches have read it
  if (g.config.router == Router::kVsa) cursor.take(worker.rows_q, g.block_q * g.dim);
}

Workspace::Workspace(const Geometry& geometry, int slots, std::byte* base) : geometry_(&geometry) {
  HeadBuffers head{};
  Cursor head_size(nullptr);
  place_head(head_size, head);
  head_bytes_ = head_size.used();
  WorkerBuffers worker{};
  Cursor worker_size(nullptr);
  place_worker(worker_size, worker);
  worker_bytes_ = worker_size.used();

  Cursor cursor(base);
  cursor.take(heads_, geometry.group * static_cast<int64_t>(head_bytes_));
  cursor.take(workers_, slots * static_cast<int64_t>(worker_bytes_));
  if (geometry.mode == Mode::kFull) {
    cursor.take(bias, geometry.key_blocks * geometry.block_k);
  } else {
    cursor.take(all_blocks, geometry.key_blocks);
    cursor.take(linear_weight, geometry.heads * geometry.query_blocks);
    cursor.take(kept, geometry.heads * geometry.query_blocks);
  }
  if (geometry.mode == Mode::kSla1) {
    cursor.take(projection, geometry.panels * kPanel * geometry.dim);
    cursor.take(projection_bias, geometry.panels * kPanel);
  }
  cursor.take(probe_sums, geometry.heads * geometry.query_blocks * kProbeSums);
  cursor.take(tail_bias, geometry.block_k);
  cursor.take(clocks, slots);
  bytes_ = cursor.used();
}

HeadBuffers Workspace::head(int64_t index) const {
  HeadBuffers result{};
  Cursor cursor(heads_ + index * static_cast<int64_t>(head_bytes_));
  place_head(cursor, result);
  return result;
}

WorkerBuffers Workspace::worker(int index) const {
  WorkerBuffers result{};
  Cursor cursor(workers_ + index * static_cast<int64_t>(worker_bytes_));
  place_worker(cursor, result);
  result.clock = clocks + index;
  return result;
}

}  // namespace sla2::attention
