// SPDX-License-Identifier: Apache-2.0
// What all query blocks of a head share, computed once.
//   1 block means of keys, the mean key μ, means - μ (router; μ alone in full mode with 8 bits)
//   2 keys - μ packed, values packed; with a linear branch φ, h_j, z_j
//   3 with a linear branch totals of h and z
#include <cmath>
#include <limits>

#include "attention/forward.h"

namespace sla2::attention {
namespace {

using kernels::kPanel;

constexpr float kLog2E = 0x1.715476p+0F;

void load_keys(const Call& call, int64_t head, int64_t block, float* rows) {
  const Geometry& g = call.geometry;
  call.ops.load_rows(rows_of(call.in.k, call.first_head + head, g.config.kv_heads), block * g.block_k, g.key_rows(block), g.dim,
                     1.0F, rows);
}

void load_values(const Call& call, int64_t head, int64_t block, float* rows) {
  const Geometry& g = call.geometry;
  call.ops.load_rows(rows_of(call.in.v, call.first_head + head, g.config.kv_heads), block * g.block_k, g.key_rows(block), g.dim,
                     1.0F, rows);
}

/// FP8 values: their scales per channel, from all blocks.
void scale_values(const Call& call, int64_t head_index, const WorkerBuffers& w) {
  const Geometry& g = call.geometry;
  const HeadBuffers head = call.workspace.head(head_index);
  for (int64_t c = 0; c < g.dim; ++c) head.largest_value[c] = 0;
  for (int64_t block = 0; block < g.key_blocks; ++block) {
    load_values(call, head_index, block, w.rows);
    call.ops.largest_per_channel(w.rows, g.key_rows(block), g.dim, head.largest_value);
  }
  call.ops.pack_values_fp8(w.rows, 0, g.dim, g.block_k, head.largest_value, head.values_fp8, head.value_scale);
}

/// Values of a block, packed for both branches.
void pack_value_block(const Call& call, const HeadBuffers& head, int64_t head_index, int64_t block, const WorkerBuffers& w) {
  const Geometry& g = call.geometry;
  float* const rows = w.rows;
  const int64_t n = g.key_rows(block), at = block * g.panels * g.block_k * kPanel;
  load_values(call, head_index, block, rows);
  if (g.fp8) call.ops.pack_values_fp8(rows, n, g.dim, g.block_k, head.largest_value, head.values_fp8 + at, w.value_scale);
  if (g.bf16) {
    call.ops.pack_values_bf16(rows, n, g.dim, g.block_k, head.values_bf16 + at);
    if (g.linear && !g.linear_bf16) kernels::pack_values(rows, n, g.dim, g.block_k, w.value_panels);
  } else {
    kernels::pack_values(rows, n, g.dim, g.block_k, head.values + at);
  }
}

/// Keys of a block, packed for the softmax branch; `rows` keeps them.
void pack_key_block(const Call& call, const HeadBuffers& head, int64_t head_index, int64_t block, float* rows) {
  const Geometry& g = call.geometry;
  const int64_t n = g.key_rows(block), at = block * g.block_k * g.dim;
  load_keys(call, head_index, block, rows);
  if (g.centred()) call.ops.shift_rows(n, g.dim, head.shift, rows);
  if (g.int8) {
    call.ops.pack_keys_int8(rows, n, g.dim, g.block_k, head.keys_int8 + at, head.key_scale + block);
  } else if (g.bf16) {
    call.ops.pack_keys_bf16(rows, n, g.dim, g.block_k, head.keys_bf16 + at);
  } else {
    kernels::pack_keys(rows, n, g.dim, g.block_k, head.keys + at);
  }
}

void pool_block(const Call& call, int64_t head_index, int64_t block, const WorkerBuffers& w) {
  const Geometry& g = call.geometry;
  load_keys(call, head_index, block, w.rows);
  call.ops.mean_rows(w.rows, g.key_rows(block), g.dim, call.workspace.head(head_index).means + block, g.route_row);
}

/// μ = Σ_j b_j · mean_j / N, then means -= μ. Padding columns become 0.
void centre_means(const Call& call, int64_t head_index) {
  const Geometry& g = call.geometry;
  const HeadBuffers head = call.workspace.head(head_index);
  for (int64_t c = 0; c < g.dim; ++c) {
    float* const line = head.means + c * g.route_row;
    double sum = 0;
    for (int64_t j = 0; j < g.key_blocks; ++j) sum += static_cast<double>(g.key_rows(j)) * static_cast<double>(line[j]);
    head.shift[c] = static_cast<float>(sum / static_cast<double>(g.config.key_tokens));
    for (int64_t j = 0; j < g.key_blocks; ++j) line[j] -= head.shift[c];
    for (int64_t j = g.key_blocks; j < g.route_row; ++j) line[j] = 0;
  }
}

/// h_j and z_j of a block in fp32, from fp32 rows of keys in w.rows, which become features.
void add_state_f32(const Call& call, const HeadBuffers& head, int64_t block, const WorkerBuffers& w) {
  const Geometry& g = call.geometry;
  const int64_t n = g.key_rows(block);
  float* const rows = w.rows;
  const float* const values = g.bf16 ? w.value_panels : head.values + block * g.panels * g.block_k * kPanel;
  call.ops.feature_map(n, g.dim, rows);
  float* const z = head.z + block * g.dim;
  for (int64_t c = 0; c < g.dim; ++c) z[c] = 0;
  for (int64_t t = 0; t < n; ++t)
    for (int64_t c = 0; c < g.dim; ++c) z[c] += rows[t * g.dim + c];
  for (int64_t p = 0; p < g.panels; ++p)
    call.ops.panel_gemm(g.dim, n, rows, 1, g.dim, values + p * g.block_k * kPanel,
                        head.h + (block * g.panels + p) * g.dim * kPanel, kPanel, false);
}

/// The same in bf16.
void add_state_bf16(const Call& call, const HeadBuffers& head, int64_t block, const WorkerBuffers& w) {
  const Geometry& g = call.geometry;
  const int64_t n = g.key_rows(block), width = g.panels * kPanel;
  call.ops.key_features_bf16(w.rows, n, g.dim, g.block_k, w.key_features, head.z + block * g.dim);
  call.ops.key_state_bf16(n, g.dim, w.key_features, head.values_bf16 + block * g.block_k * width,
                          head.h_bf16 + block * g.dim * width);
}

void prepare_block(const Call& call, int64_t head_index, int64_t block, const WorkerBuffers& w) {
  const Geometry& g = call.geometry;
  const HeadBuffers head = call.workspace.head(head_index);
  pack_value_block(call, head, head_index, block, w);
  pack_key_block(call, head, head_index, block, w.rows);
  w.clock->lap(Part::kPack);
  if (!g.linear) return;
  if (!g.config.smooth_k) load_keys(call, head_index, block, w.rows);
  g.linear_bf16 ? add_state_bf16(call, head, block, w) : add_state_f32(call, head, block, w);
  w.clock->lap(Part::kLinear);
}

/// sparge: how alike the keys of a block are, minus the mean key.
void find_likeness(const Call& call, int64_t head_index, int64_t block, const WorkerBuffers& w) {
  const Geometry& g = call.geometry;
  const HeadBuffers head = call.workspace.head(head_index);
  const int64_t n = g.key_rows(block);
  load_keys(call, head_index, block, w.rows);
  call.ops.shift_rows(n, g.dim, head.shift, w.rows);
  head.likeness[block] = self_similarity(w.rows, n, g.dim, w.line);
}

/// One part of `panels` of the totals.
void total_panel(const Call& call, int64_t head_index, int64_t panel) {
  const Geometry& g = call.geometry;
  const HeadBuffers head = call.workspace.head(head_index);
  const int64_t size = g.dim * kPanel, first = panel * size, all = g.panels * size;
  if (g.linear_bf16) {
    call.ops.sum_states_bf16(
        {size, head.h_bf16 + first, all, nullptr, g.key_blocks, 1.0F, nullptr, nullptr, head.h_wide_total + first});
  } else {
    call.ops.block_sum(size, head.h + first, all, call.workspace.all_blocks, g.key_blocks, 1.0, nullptr, head.h_total + first);
  }
  if (panel == 0) call.ops.block_sum(g.dim, head.z, g.dim, call.workspace.all_blocks, g.key_blocks, 1.0, nullptr, head.z_total);
}

/// each(head in group, item, worker's scratch) for every item of every head; its time is that of `part`, what it gave to another
/// part aside. Two captures: std::function then needs no heap.
template <typename Each>
void for_group(const Call& call, Part part, int64_t items, const Each& each) {
  struct Job {
    const Call& call;
    Part part;
    int64_t items;
    const Each& each;
  } const job{call, part, items, each};
  parallel_for(call.group * items, [&job](int64_t index, int worker) {
    const WorkerBuffers w = job.call.workspace.worker(worker);
    w.clock->start();
    job.each(job.call, index / job.items, index % job.items, w);
    w.clock->lap(job.part);
  });
}

}  // namespace

void prepare_call(const Call& call) {
  const Geometry& g = call.geometry;
  constexpr float kNone = -std::numeric_limits<float>::infinity();
  const int64_t last = (g.key_blocks - 1) * g.block_k;
  for (int64_t t = 0; t < g.block_k; ++t) call.workspace.tail_bias[t] = last + t < g.config.key_tokens ? 0.0F : kNone;
  if (g.mode == Mode::kFull) {
    if (call.in.key_bias != nullptr)
      for (int64_t t = 0; t < g.key_blocks * g.block_k; ++t)
        call.workspace.bias[t] = t < g.config.key_tokens ? call.in.key_bias[t] * kLog2E : kNone;
  } else {
    for (int64_t j = 0; j < g.key_blocks; ++j) call.workspace.all_blocks[j] = static_cast<int32_t>(j);
  }
  if (g.mode == Mode::kSla1) pack_projection(call);
}

void prepare_group(const Call& call) {
  const Geometry& g = call.geometry;
  if (g.centred()) {
    for_group(call, Part::kRouter, g.key_blocks, pool_block);
    for_group(call, Part::kRouter, 1, [](const Call& c, int64_t head, int64_t, const WorkerBuffers&) { centre_means(c, head); });
  }
  if (g.config.router == Router::kSparge && g.routed) for_group(call, Part::kRouter, g.key_blocks, find_likeness);
  if (call.route_only) return;
  if (g.fp8)
    for_group(call, Part::kPack, 1,
              [](const Call& c, int64_t head, int64_t, const WorkerBuffers& w) { scale_values(c, head, w); });
  for_group(call, Part::kPack, g.key_blocks, prepare_block);
  if (g.pools_values()) for_group(call, Part::kPack, g.key_blocks, pool_values);
  if (g.pooled) for_group(call, Part::kPack, g.mean_blocks, pack_mean_block);
  if (!g.linear) return;
  for_group(call, Part::kLinear, g.panels,
            [](const Call& c, int64_t head, int64_t panel, const WorkerBuffers&) { total_panel(c, head, panel); });
}

}  // namespace sla2::attention
