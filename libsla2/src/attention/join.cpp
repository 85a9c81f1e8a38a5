// SPDX-License-Identifier: Apache-2.0
// What joins the linear branch beside a weight: sla1's projection and vsa's gated coarse branch.
#include <algorithm>
#include <cmath>
#include <limits>

#include "attention/forward.h"

namespace sla2::attention {

using kernels::kPanel;

void project_linear(const Call& call, int64_t n, const WorkerBuffers& w) {
  const Geometry& g = call.geometry;
  const BranchLayout at = branch_layout(g, n);
  for (int64_t p = 0; p < g.panels; ++p)
    for (int64_t r = 0; r < n; ++r) {
      float* const line = w.linear + p * at.panel + r * at.row;
      const float weight = w.w_linear[r];
      for (int64_t c = 0; c < kPanel; ++c) line[c] = weight == 0 ? 0.0F : line[c] * weight;
    }
  for (int64_t out = 0; out < g.panels; ++out) {
    float* const target = w.extra + out * at.panel;
    for (int64_t r = 0; r < n; ++r) std::copy_n(call.workspace.projection_bias + out * kPanel, kPanel, target + r * at.row);
    for (int64_t p = 0; p < g.panels; ++p)
      call.ops.panel_gemm(n, std::min(kPanel, g.dim - p * kPanel), w.linear + p * at.panel, at.row, 1,
                          call.workspace.projection + (out * g.dim + p * kPanel) * kPanel, target, at.row, true);
  }
  std::fill_n(w.w_linear, n, 1.0F);
}

void add_coarse_branch(const Call& call, const HeadBuffers& head, const Place& place, bool has_linear, const WorkerBuffers& w) {
  const Geometry& g = call.geometry;
  const int64_t n = place.rows;
  double top = -std::numeric_limits<double>::infinity(), sum = 0;
  for (int64_t j = 0; j < g.key_blocks; ++j) top = std::max(top, w.routes[j]);
  double* const coarse = w.line;
  std::fill_n(coarse, g.dim, 0.0);
  for (int64_t j = 0; j < g.key_blocks; ++j) {
    const double weight = std::exp(w.routes[j] - top);
    sum += weight;
    for (int64_t c = 0; c < g.dim; ++c) coarse[c] += weight * static_cast<double>(head.mean_values[j * g.dim + c]);
  }
  for (int64_t c = 0; c < g.dim; ++c) coarse[c] /= sum;

  float* const gate = w.rows_q;
  call.ops.load_rows(rows_of(call.in.parameters.gate, place.head, g.config.heads), place.first, n, g.dim, 1.0F, gate);
  const float* const linear = g.mode == Mode::kSla1 ? w.extra : w.linear;
  const BranchLayout layout = branch_layout(g, n);
  for (int64_t p = 0; p < g.panels; ++p)
    for (int64_t r = 0; r < n; ++r) {
      const int64_t at = p * layout.panel + r * layout.row, width = std::min(kPanel, g.dim - p * kPanel);
      const float weight = has_linear ? w.w_linear[r] : 0.0F;
      for (int64_t c = 0; c < kPanel; ++c) {
        const float before = weight == 0 ? 0.0F : weight * linear[at + c];
        w.extra[at + c] =
            c < width ? before + gate[r * g.dim + p * kPanel + c] * static_cast<float>(coarse[p * kPanel + c]) : 0.0F;
      }
    }
  std::fill_n(w.w_linear, n, 1.0F);
}

}  // namespace sla2::attention
