// SPDX-License-Identifier: Apache-2.0
#include "attention/backward_workspace.h"

#include <type_traits>

#include "kernels/panel_gemm.h"

namespace sla2::attention {

using kernels::kPanel;

namespace {

template <typename T>
void take_packed(Cursor& cursor, const BackwardShape& s, Packed<T>& packed) {
  const int64_t lines = s.all_key_blocks() * s.block_k * s.dim, panels = s.all_key_blocks() * s.block_k * s.width;
  cursor.take(packed.k_lines, lines);
  cursor.take(packed.v_lines, lines);
  cursor.take(packed.k_panels, panels);
  if constexpr (std::is_same_v<T, bf16_t>) cursor.take(packed.v_panels, panels);
  cursor.take(packed.q_rows, s.blocks * s.block_q * s.dim);
  cursor.take(packed.g_rows, s.blocks * s.block_q * s.dim);
  cursor.take(packed.q_panels, s.blocks * s.block_q * s.width);
  cursor.take(packed.g_panels, s.blocks * s.block_q * s.width);
}

}  // namespace

void BackwardWorkspace::place_unit(Cursor& cursor, UnitBuffers& u) const {
  const BackwardShape& s = *shape_;
  const int64_t queries = s.blocks * s.block_q, matrix = s.dim * s.width, pairs = s.blocks * s.key_blocks;
  u = {};
  if (s.softmax) s.bf16 ? take_packed(cursor, s, u.bf16) : take_packed(cursor, s, u.f32);
  cursor.take(u.d_k, s.all_key_blocks() * s.block_k * s.width);
  cursor.take(u.d_v, s.all_key_blocks() * s.block_k * s.width);
  cursor.take(u.d_q, queries * s.width);
  for (float** const x : {&u.top, &u.weight, &u.mean}) cursor.take(*x, queries);
  cursor.take(u.state, pairs);
  if (s.means()) {
    cursor.take(u.means, s.dim * s.route_row);
    cursor.take(u.shift, s.dim);
    cursor.take(u.q_means, s.blocks * s.dim);
    cursor.take(u.column_sums, s.key_blocks * s.dim);
    cursor.take(u.mean_gradient, s.dim);
    cursor.take(u.d_mean_k, s.key_blocks * s.dim);
    cursor.take(u.d_mean_v, s.key_blocks * s.dim);
    cursor.take(u.v_means, s.key_blocks * s.dim);
  }
  if (s.linear) {
    cursor.take(u.h, s.key_blocks * matrix);
    cursor.take(u.z, s.key_blocks * s.dim);
    cursor.take(u.h_total, matrix);
    cursor.take(u.z_total, s.dim);
    cursor.take(u.d_h, s.blocks * matrix);
    cursor.take(u.d_z, s.blocks * s.dim);
    cursor.take(u.d_floor, s.blocks * s.dim);
    cursor.take(u.d_h_total, matrix);
    cursor.take(u.d_z_total, s.dim);
    cursor.take(u.d_floor_total, s.dim);
  }
  if (s.config.mode == Mode::kSla1) {
    cursor.take(u.d_proj, s.blocks * matrix);
    cursor.take(u.d_proj_bias, s.blocks * s.dim);
  }
  if (s.scores()) {
    cursor.take(u.scores, pairs);
    cursor.take(u.left, s.blocks * s.dim);
    cursor.take(u.right, s.sharing * s.key_blocks * s.dim);
  }
  if (s.soft || s.vsa) {
    cursor.take(u.d_scores, pairs);
    cursor.take(u.d_left, s.blocks * s.dim);
    cursor.take(u.d_right, s.sharing * s.key_blocks * s.dim);
    cursor.take(u.d_mean_q, s.blocks * s.dim);
  }
  if (s.soft) {
    cursor.take(u.mask, pairs);
    cursor.take(u.d_logit, pairs);
  }
  if (s.vsa) {
    cursor.take(u.coarse_weights, pairs);
    cursor.take(u.coarse, s.blocks * s.dim);
    cursor.take(u.d_coarse, s.blocks * s.dim);
  }
}

void BackwardWorkspace::place_worker(Cursor& cursor, BackwardWorker& w) const {
  const BackwardShape& s = *shape_;
  const int64_t rows = std::max(s.block_q, s.block_k), tile = s.block_q * s.block_k;
  w = {};
  cursor.take(w.s, tile);
  cursor.take(w.d, tile);
  if (s.bf16) {
    cursor.take(w.p_pairs, tile);
    cursor.take(w.ds_pairs, tile);
    cursor.take(w.ds, tile);
    cursor.take(w.weights, tile);
    cursor.take(w.sums, s.block_q * kPanel);
  }
  for (float** const x : {&w.x0, &w.x1, &w.x2, &w.x3}) cursor.take(*x, rows * s.dim);
  cursor.take(w.panels, rows * s.width);
  cursor.take(w.acc, s.block_q * s.width);
  cursor.take(w.o_linear, rows * s.width);
  cursor.take(w.d_phi, rows * s.width);
  for (float** const x : {&w.m, &w.l, &w.rescale, &w.ones}) cursor.take(*x, rows);
  cursor.take(w.bias, s.block_k);
  for (double** const x : {&w.a, &w.inverse, &w.d_linear_mean, &w.log_sum, &w.d_sum}) cursor.take(*x, s.block_q);
  cursor.take(w.dots, rows);
  cursor.take(w.floored, s.block_q);
  cursor.take(w.h, s.dim * s.width);
  if (s.bf16) {
    cursor.take(w.left, rows * s.width);
    cursor.take(w.right, std::max(rows, s.width) * s.width);
  } else {
    cursor.take(w.h_panels, s.width * s.width);
  }
  cursor.take(w.h_sum, s.dim * kPanel);
  cursor.take(w.z_sum, s.dim);
  cursor.take(w.routes, s.route_row);
  cursor.take(w.in, std::max(s.key_blocks, s.blocks));
  cursor.take(w.out, std::max(s.key_blocks, s.blocks));
}

BackwardWorkspace::BackwardWorkspace(const BackwardShape& shape, int slots, std::byte* base) : shape_(&shape) {
  UnitBuffers unit{};
  Cursor unit_size(nullptr);
  place_unit(unit_size, unit);
  unit_bytes_ = unit_size.used();
  BackwardWorker worker{};
  Cursor worker_size(nullptr);
  place_worker(worker_size, worker);
  worker_bytes_ = worker_size.used();

  Cursor cursor(base);
  cursor.take(units_, shape.together * static_cast<int64_t>(unit_bytes_));
  cursor.take(workers_, slots * static_cast<int64_t>(worker_bytes_));
  cursor.take(all_blocks, std::max(shape.key_blocks, shape.blocks));
  if (shape.config.mode == Mode::kSla2) cursor.take(d_mix, shape.units * shape.blocks * 2);
  if (shape.config.mode == Mode::kSla1) {
    cursor.take(proj, shape.dim * shape.width);
    cursor.take(d_proj, shape.dim * shape.width);
    cursor.take(d_proj_bias, shape.dim);
  }
  if (shape.soft || shape.vsa) {
    cursor.take(d_w_q, shape.config.heads * shape.dim * shape.dim);
    cursor.take(d_w_k, shape.config.heads * shape.dim * shape.dim);
  }
  bytes_ = cursor.used();
}

UnitBuffers BackwardWorkspace::unit(int64_t index) const {
  UnitBuffers result{};
  Cursor cursor(units_ + index * static_cast<int64_t>(unit_bytes_));
  place_unit(cursor, result);
  return result;
}

BackwardWorker BackwardWorkspace::worker(int index) const {
  BackwardWorker result{};
  Cursor cursor(workers_ + index * static_cast<int64_t>(worker_bytes_));
  place_worker(cursor, result);
  return result;
}

}  // namespace sla2::attention
