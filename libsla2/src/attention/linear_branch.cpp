// SPDX-License-Identifier: Apache-2.0
// The linear branch of one query block: φ(Q)·H and φ(Q)·Z over the key blocks that the softmax branch skips.
#include <algorithm>

#include "attention/forward.h"

namespace sla2::attention {
namespace {

using kernels::kPanel;

constexpr double kDenominatorFloor = 1e-6;  // ε of the linear branch, relative to φ(q)·z over all keys

/// Sum of per-block arrays over the linear branch's blocks, by the shorter of two ways: totals minus the others, or added up.
void sum_linear(const Call& call, const Selection& selection, int64_t count, const float* blocks, int64_t stride,
                const double* total, double* out) {
  const Blocks &linear = selection.linear, &others = selection.not_linear;
  if (selection.linear_weights != nullptr) {
    weighted_block_sum(count, blocks, stride, linear.count, selection.linear_weights, out);
  } else if (others.count <= linear.count) {
    call.ops.block_sum(count, blocks, stride, others.index, others.count, -1.0, total, out);
  } else {
    call.ops.block_sum(count, blocks, stride, linear.index, linear.count, 1.0, nullptr, out);
  }
}

}  // namespace

void weighted_block_sum(int64_t size, const float* blocks, int64_t stride, int64_t count, const double* weights, double* out) {
  std::fill_n(out, size, 0.0);
  for (int64_t j = 0; j < count; ++j)
    for (int64_t i = 0; i < size; ++i) out[i] += weights[j] * static_cast<double>(blocks[j * stride + i]);
}

void linear_branch(const Call& call, const HeadBuffers& head, int64_t n, const Selection& selection, const WorkerBuffers& w) {
  const Geometry& g = call.geometry;
  const int64_t size = g.dim * kPanel;
  if (selection.linear.count == 0) {  // every block is kept
    std::fill_n(w.w_linear, n, 0.0F);
    return;
  }
  call.ops.feature_map(n, g.dim, w.q_phi);
  for (int64_t p = 0; p < g.panels; ++p) {
    sum_linear(call, selection, size, head.h + p * size, g.panels * size, head.h_total + p * size, w.h_sum);
    for (int64_t i = 0; i < size; ++i) w.h_left[i] = static_cast<float>(w.h_sum[i]);
    call.ops.panel_gemm(n, g.dim, w.q_phi, g.dim, 1, w.h_left, w.linear + p * n * kPanel, kPanel, false);
  }
  sum_linear(call, selection, g.dim, head.z, g.dim, head.z_total, w.z_sum);
  for (int64_t r = 0; r < n; ++r) {
    double rest = 0, total = 0;
    for (int64_t c = 0; c < g.dim; ++c) {
      const double phi = static_cast<double>(w.q_phi[r * g.dim + c]);
      rest += phi * w.z_sum[c];
      total += phi * head.z_total[c];
    }
    const double floor = kDenominatorFloor * total;
    const double denominator = rest < floor ? floor : rest;  // NaN stays NaN
    w.w_linear[r] = denominator == 0 ? 0.0F : static_cast<float>(1.0 / denominator);
  }
}

}  // namespace sla2::attention
