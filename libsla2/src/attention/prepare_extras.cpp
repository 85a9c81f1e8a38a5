// SPDX-License-Identifier: Apache-2.0
// What single modes and routers need beside packed keys and values.
#include <algorithm>
#include <cmath>

#include "attention/forward.h"

namespace sla2::attention {

double self_similarity(const float* rows, int64_t n, int64_t dim, double* sum) {
  std::fill_n(sum, dim, 0.0);
  for (int64_t t = 0; t < n; ++t) {
    const float* const row = rows + t * dim;
    double square = 0;
    for (int64_t c = 0; c < dim; ++c) square += static_cast<double>(row[c]) * static_cast<double>(row[c]);
    if (square == 0) continue;  // a row of zeros has no direction
    const double inverse = 1 / std::sqrt(square);
    for (int64_t c = 0; c < dim; ++c) sum[c] += inverse * static_cast<double>(row[c]);
  }
  double length = 0;
  for (int64_t c = 0; c < dim; ++c) length += sum[c] * sum[c];
  return length / static_cast<double>(n * n);
}

void pool_values(const Call& call, int64_t key_head, int64_t block, const WorkerBuffers& w) {
  const Geometry& g = call.geometry;
  call.ops.load_rows(rows_of(call.in.v, call.first_head + key_head, g.config.kv_heads), block * g.block_k, g.key_rows(block),
                     g.dim, 1.0F, w.rows);
  call.ops.mean_rows(w.rows, g.key_rows(block), g.dim, call.workspace.head(key_head).mean_values + block * g.dim, 1);
}

void pack_mean_block(const Call& call, int64_t key_head, int64_t mean_block, const WorkerBuffers& w) {
  const Geometry& g = call.geometry;
  const HeadBuffers head = call.workspace.head(key_head);
  const int64_t first = mean_block * g.block_k, n = std::min(g.block_k, g.key_blocks - first), at = g.key_blocks + mean_block;
  for (int64_t t = 0; t < n; ++t)
    for (int64_t c = 0; c < g.dim; ++c) w.rows[t * g.dim + c] = head.means[c * g.route_row + first + t];
  const float* const values = head.mean_values + first * g.dim;
  const int64_t keys_at = at * g.block_k * g.dim, values_at = at * g.block_k * g.panels * kernels::kPanel;
  if (g.int8) {
    call.ops.pack_keys_int8(w.rows, n, g.dim, g.block_k, head.keys_int8 + keys_at, head.key_scale + at);
  } else if (g.bf16) {
    call.ops.pack_keys_bf16(w.rows, n, g.dim, g.block_k, head.keys_bf16 + keys_at);
  } else {
    kernels::pack_keys(w.rows, n, g.dim, g.block_k, head.keys + keys_at);
  }
  if (g.fp8)  // no mean is larger than the largest value its scale was made for
    call.ops.pack_values_fp8(values, n, g.dim, g.block_k, head.largest_value, head.values_fp8 + values_at, w.value_scale);
  if (g.bf16) {
    call.ops.pack_values_bf16(values, n, g.dim, g.block_k, head.values_bf16 + values_at);
  } else {
    kernels::pack_values(values, n, g.dim, g.block_k, head.values + values_at);
  }
}

void pack_projection(const Call& call) {
  const Geometry& g = call.geometry;
  const Parameters& p = call.in.parameters;
  const int64_t width = g.panels * kernels::kPanel;
  if (p.proj == nullptr) {
    std::fill_n(call.workspace.projection, width * g.dim, 0.0F);
  } else {
    kernels::pack_keys(p.proj, g.dim, g.dim, width, call.workspace.projection);
  }
  for (int64_t c = 0; c < width; ++c)
    call.workspace.projection_bias[c] = p.proj_bias != nullptr && c < g.dim ? p.proj_bias[c] : 0.0F;
}

}  // namespace sla2::attention
