// SPDX-License-Identifier: Apache-2.0
// Keys and values of a group before the queries come, and their gradients after all is summed.
#include "attention/backward_parts.h"
#include "kernels/merge_rows.h"
#include "kernels/panel_gemm.h"

namespace sla2::attention {
namespace {

using kernels::kPanel;

void load_keys(const BackwardCall& call, const Operand& operand, int64_t unit, int64_t j, float* rows) {
  const BackwardShape& s = call.shape;
  call.ops.load_rows(rows_of(operand, call.unit_index(unit), s.config.kv_heads), j * s.block_k, s.token_keys(j), s.dim, 1.0F,
                     rows);
}

void pool_block(const BackwardCall& call, int64_t unit, int64_t j, const BackwardWorker& w) {
  const BackwardShape& s = call.shape;
  const UnitBuffers b = call.space.unit(unit);
  load_keys(call, call.in.k, unit, j, w.x0);
  call.ops.mean_rows(w.x0, s.token_keys(j), s.dim, b.means + j, s.route_row);
  if (!s.pooled && !call.coarse) return;
  load_keys(call, call.in.v, unit, j, w.x0);
  call.ops.mean_rows(w.x0, s.token_keys(j), s.dim, w.x1, 1);
  for (int64_t c = 0; c < s.dim; ++c) b.v_means[j * s.dim + c] = static_cast<double>(w.x1[c]);
}

/// μ and means − μ, in the forward's order of sums.
void centre_means(const BackwardCall& call, int64_t unit) {
  const BackwardShape& s = call.shape;
  const UnitBuffers b = call.space.unit(unit);
  for (int64_t c = 0; c < s.dim; ++c) {
    float* const line = b.means + c * s.route_row;
    double sum = 0;
    for (int64_t j = 0; j < s.key_blocks; ++j) sum += static_cast<double>(s.token_keys(j)) * static_cast<double>(line[j]);
    b.shift[c] = static_cast<float>(sum / static_cast<double>(s.config.key_tokens));
    for (int64_t j = 0; j < s.key_blocks; ++j) line[j] -= b.shift[c];
    for (int64_t j = s.key_blocks; j < s.route_row; ++j) line[j] = 0;
  }
}

/// Rows of keys in x0 and of values in x1 become operands of the tiles. fp32 panels of values, if anyone needs them, in w.panels.
void pack_block(const BackwardCall& call, const UnitBuffers& b, int64_t j, const BackwardWorker& w) {
  const BackwardShape& s = call.shape;
  const int64_t n = s.keys(j), lines = j * s.block_k * s.dim, panels = j * s.block_k * s.width;
  if (!s.softmax) return;
  if (s.bf16) {
    call.ops.pack_keys_bf16(w.x0, n, s.dim, s.block_k, b.bf16.k_lines + lines);
    call.ops.pack_keys_bf16(w.x1, n, s.dim, s.block_k, b.bf16.v_lines + lines);
    call.ops.pack_values_bf16(w.x0, n, s.dim, s.block_k, b.bf16.k_panels + panels);
    if (call.again) call.ops.pack_values_bf16(w.x1, n, s.dim, s.block_k, b.bf16.v_panels + panels);
  } else {
    kernels::pack_keys(w.x0, n, s.dim, s.block_k, b.f32.k_lines + lines);
    kernels::pack_keys(w.x1, n, s.dim, s.block_k, b.f32.v_lines + lines);
    kernels::pack_values(w.x0, n, s.dim, s.block_k, b.f32.k_panels + panels);
  }
}

/// h_j and z_j from values in x1.
void add_features(const BackwardCall& call, const UnitBuffers& b, int64_t unit, int64_t j, const BackwardWorker& w) {
  const BackwardShape& s = call.shape;
  const int64_t n = s.token_keys(j);
  if (!s.config.smooth_k) load_keys(call, call.in.k, unit, j, w.x0);
  call.ops.feature_map(n, s.dim, w.x0);
  float* const z = b.z + j * s.dim;
  for (int64_t c = 0; c < s.dim; ++c) z[c] = 0;
  for (int64_t t = 0; t < n; ++t)
    for (int64_t c = 0; c < s.dim; ++c) z[c] += w.x0[t * s.dim + c];
  outer_product(call, n, w.x0, w.x1, b.h + j * s.dim * s.width, w);
}

void prepare_block(const BackwardCall& call, int64_t unit, int64_t j, const BackwardWorker& w) {
  const BackwardShape& s = call.shape;
  const UnitBuffers b = call.space.unit(unit);
  if (j < s.key_blocks) {
    load_keys(call, call.in.k, unit, j, w.x0);
    if (s.centred) call.ops.shift_rows(s.token_keys(j), s.dim, b.shift, w.x0);
    load_keys(call, call.in.v, unit, j, w.x1);
  } else {
    for (int64_t t = 0; t < s.keys(j); ++t) {
      const int64_t block = (j - s.key_blocks) * s.block_k + t;
      for (int64_t c = 0; c < s.dim; ++c) {
        w.x0[t * s.dim + c] = b.means[c * s.route_row + block];
        w.x1[t * s.dim + c] = static_cast<float>(b.v_means[block * s.dim + c]);
      }
    }
  }
  pack_block(call, b, j, w);
  if (s.linear && j < s.key_blocks) add_features(call, b, unit, j, w);
}

void total_panel(const BackwardCall& call, int64_t unit, int64_t panel) {
  const BackwardShape& s = call.shape;
  const UnitBuffers b = call.space.unit(unit);
  const int64_t size = s.dim * kPanel;
  call.ops.block_sum(size, b.h + panel * size, s.panels * size, call.space.all_blocks, s.key_blocks, 1.0, nullptr,
                     b.h_total + panel * size);
  if (panel == 0) call.ops.block_sum(s.dim, b.z, s.dim, call.space.all_blocks, s.key_blocks, 1.0, nullptr, b.z_total);
}

/// Column sums of what block j of K − μ receives.
void sum_columns(const BackwardCall& call, int64_t unit, int64_t j) {
  const BackwardShape& s = call.shape;
  const UnitBuffers b = call.space.unit(unit);
  double* const sum = b.column_sums + j * s.dim;
  // With smooth_k off, linear_keys() left here, negated, what K itself receives through φ.
  if (!s.centred || !s.linear || s.config.smooth_k) std::fill_n(sum, s.dim, 0.0);
  for (int64_t c = 0; c < s.dim; ++c) sum[c] += b.d_mean_k[j * s.dim + c];
  if (!s.centred) return;
  const float* row = b.d_k + j * s.block_k * s.width;
  for (int64_t t = 0; t < s.token_keys(j); ++t, row += s.width)
    for (int64_t c = 0; c < s.dim; ++c) sum[c] += static_cast<double>(row[c]);
}

void mean_of_columns(const BackwardCall& call, int64_t unit) {
  const BackwardShape& s = call.shape;
  const UnitBuffers b = call.space.unit(unit);
  for (int64_t c = 0; c < s.dim; ++c) {
    double sum = 0;
    for (int64_t j = 0; j < s.key_blocks; ++j) sum += b.column_sums[j * s.dim + c];
    b.mean_gradient[c] = sum / static_cast<double>(s.config.key_tokens);
  }
}

/// rows += line.
void add_line(const BackwardShape& s, int64_t n, const float* line, float* rows) {
  for (int64_t t = 0; t < n; ++t, rows += s.width)
    for (int64_t c = 0; c < s.dim; ++c) rows[c] += line[c];
}

void finish_keys(const BackwardCall& call, int64_t unit, int64_t j, const BackwardWorker& w) {
  const BackwardShape& s = call.shape;
  const UnitBuffers b = call.space.unit(unit);
  const int64_t n = s.token_keys(j), head = call.unit_index(unit), heads = s.config.kv_heads;
  const double share = 1.0 / static_cast<double>(n);
  float *const d_k = b.d_k + j * s.block_k * s.width, *const d_v = b.d_v + j * s.block_k * s.width;
  if (s.means()) {
    for (int64_t c = 0; c < s.dim; ++c) w.x0[c] = static_cast<float>(share * b.d_mean_k[j * s.dim + c] - b.mean_gradient[c]);
    add_line(s, n, w.x0, d_k);
  }
  if (s.pooled || call.coarse) {
    for (int64_t c = 0; c < s.dim; ++c) w.x0[c] = static_cast<float>(share * b.d_mean_v[j * s.dim + c]);
    add_line(s, n, w.x0, d_v);
  }
  const Gradients& g = call.in.gradients;
  if (g.k.data != nullptr) write_rows(call, d_k, n, g.k, head, heads, j * s.block_k, w);
  if (g.v.data != nullptr) write_rows(call, d_v, n, g.v, head, heads, j * s.block_k, w);
}

void finish_queries(const BackwardCall& call, int64_t unit, int64_t u, const BackwardWorker& w) {
  const BackwardShape& s = call.shape;
  const UnitBuffers b = call.space.unit(unit);
  const int64_t n = s.query_rows(u);
  float* const d_q = b.d_q + u * s.block_q * s.width;
  if (s.soft || call.coarse) {
    for (int64_t c = 0; c < s.dim; ++c) w.x0[c] = static_cast<float>(b.d_mean_q[u * s.dim + c] / static_cast<double>(n));
    add_line(s, n, w.x0, d_q);
  }
  write_rows(call, d_q, n, call.in.gradients.q, call.head_of(unit, u), s.config.heads, u % s.query_blocks * s.block_q, w);
}

}  // namespace

void write_rows(const BackwardCall& call, const float* rows, int64_t n, const MutableOperand& out, int64_t head, int64_t heads,
                int64_t first, const BackwardWorker& w) {
  const int64_t at = head / heads * out.stride_batch + head % heads * out.stride_head + first * out.stride_token;
  for (int64_t r = 0; r < n; ++r) w.ones[r] = 1;
  kernels::MergeInput input{rows, w.ones};
  input.row = call.shape.width;
  call.ops.merge_rows(input, n, call.shape.dim,
                      static_cast<std::byte*>(out.data) + at * static_cast<int64_t>(dtype_size(out.dtype)), out.dtype,
                      out.stride_token);
}

void backward_keys(const BackwardCall& call) {
  const BackwardShape& s = call.shape;
  if (s.means()) {
    for_units(call, s.key_blocks, pool_block);
    for_units(call, 1, [](const BackwardCall& c, int64_t unit, int64_t, const BackwardWorker& w) {
      centre_means(c, unit);
      if (c.shape.scores()) backward_key_scores(c, unit, w);
    });
  }
  for_units(call, s.all_key_blocks(), prepare_block);
  if (s.linear)
    for_units(call, s.panels,
              [](const BackwardCall& c, int64_t unit, int64_t panel, const BackwardWorker&) { total_panel(c, unit, panel); });
}

void finish_gradients(const BackwardCall& call) {
  const BackwardShape& s = call.shape;
  if (s.means()) {
    for_units(call, s.key_blocks,
              [](const BackwardCall& c, int64_t unit, int64_t j, const BackwardWorker&) { sum_columns(c, unit, j); });
    for_units(call, 1, [](const BackwardCall& c, int64_t unit, int64_t, const BackwardWorker&) { mean_of_columns(c, unit); });
  }
  if (call.in.gradients.k.data != nullptr || call.in.gradients.v.data != nullptr) for_units(call, s.key_blocks, finish_keys);
  if (call.in.gradients.q.data != nullptr) for_units(call, s.blocks, finish_queries);
}

}  // namespace sla2::attention
