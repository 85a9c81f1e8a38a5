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

void linear_branch_f32(const Call& call, const HeadBuffers& head, int64_t n, const Selection& selection, const WorkerBuffers& w) {
  const Geometry& g = call.geometry;
  const int64_t size = g.dim * kPanel;
  const BranchLayout at = branch_layout(g, n);
  if (g.bf16) std::copy_n(w.q, n * g.dim, w.q_phi);  // a probe reads w.q once more
  call.ops.feature_map(n, g.dim, w.q_phi);
  for (int64_t p = 0; p < g.panels; ++p) {
    sum_linear(call, selection, size, head.h + p * size, g.panels * size, head.h_total + p * size, w.h_sum);
    for (int64_t i = 0; i < size; ++i) w.h_left[i] = static_cast<float>(w.h_sum[i]);
    call.ops.panel_gemm(n, g.dim, w.q_phi, g.dim, 1, w.h_left, w.linear + p * at.panel, at.row, false);
  }
  for (int64_t r = 0; r < n; ++r) {
    w.z_rest[r] = w.z_all[r] = 0;
    for (int64_t c = 0; c < g.dim; ++c) {
      const double phi = static_cast<double>(w.q_phi[r * g.dim + c]);
      w.z_rest[r] += phi * w.z_sum[c];
      w.z_all[r] += phi * head.z_total[c];
    }
  }
}

/// From w.q, which the softmax branch left as it was.
void linear_branch_bf16(const Call& call, const HeadBuffers& head, int64_t n, const Selection& selection,
                        const WorkerBuffers& w) {
  const Geometry& g = call.geometry;
  const Blocks &linear = selection.linear, &others = selection.not_linear;
  const bool subtract = others.count <= linear.count;
  const Blocks& listed = subtract ? others : linear;
  const int64_t size = g.dim * g.panels * kPanel;
  call.ops.features_bf16(n, g.dim, w.q, w.q_features);
  call.ops.sum_states_bf16({size, head.h_bf16, size, listed.index, listed.count, subtract ? -1.0F : 1.0F,
                            subtract ? head.h_wide_total : nullptr, w.h_left_bf16, nullptr});
  call.ops.apply_state_bf16(n, g.dim, w.q_features, w.h_left_bf16, w.linear);
  call.ops.feature_sums_bf16(n, g.dim, w.q_features, w.z_sum, head.z_total, w.z_rest, w.z_all);
}

}  // namespace

void weighted_block_sum(int64_t size, const float* blocks, int64_t stride, int64_t count, const double* weights, double* out) {
  std::fill_n(out, size, 0.0);
  for (int64_t j = 0; j < count; ++j)
    for (int64_t i = 0; i < size; ++i) out[i] += weights[j] * static_cast<double>(blocks[j * stride + i]);
}

void linear_branch(const Call& call, const HeadBuffers& head, int64_t n, const Selection& selection, const WorkerBuffers& w) {
  const Geometry& g = call.geometry;
  if (selection.linear.count == 0) {  // every block is kept
    std::fill_n(w.w_linear, n, 0.0F);
    return;
  }
  sum_linear(call, selection, g.dim, head.z, g.dim, head.z_total, w.z_sum);
  g.linear_bf16 ? linear_branch_bf16(call, head, n, selection, w) : linear_branch_f32(call, head, n, selection, w);
  for (int64_t r = 0; r < n; ++r) {
    const double floor = kDenominatorFloor * w.z_all[r], rest = w.z_rest[r];
    const double denominator = rest < floor ? floor : rest;  // NaN stays NaN
    w.w_linear[r] = denominator == 0 ? 0.0F : static_cast<float>(1.0 / denominator);
  }
}

}  // namespace sla2::attention
