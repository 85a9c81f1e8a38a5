// SPDX-License-Identifier: Apache-2.0
// The linear branch and its gradient. Per query block H = Σ h_j over the key blocks it sees; per key block A_j = Σ dH over the
// query blocks that see it; both are the shorter of "totals minus the others" and plain sums, in fp64. A state (h, dH) is [D][W]:
// φ's channel times value's channel.
#include "attention/backward_parts.h"
#include "kernels/panel_gemm.h"

namespace sla2::attention {
namespace {

using kernels::kPanel;

constexpr double kDenominatorFloor = 1e-6;  // ε of the linear branch, relative to φ(q)·z over all keys

/// Σ over `in`, or totals minus Σ over `out`.
void sum_blocks(const BackwardCall& call, const Blocks& in, const Blocks& out, int64_t size, const float* blocks, int64_t stride,
                const double* total, double* sum) {
  if (out.count <= in.count) {
    call.ops.block_sum(size, blocks, stride, out.index, out.count, -1.0, total, sum);
  } else {
    call.ops.block_sum(size, blocks, stride, in.index, in.count, 1.0, nullptr, sum);
  }
}

/// Σ_i weight(i) · x_i, weights 1 − M of a soft mask, `step` apart.
void sum_weighted(const double* mask, int64_t step, int64_t count, int64_t size, const float* blocks, int64_t stride,
                  double* sum) {
  std::fill_n(sum, size, 0.0);
  for (int64_t i = 0; i < count; ++i) {
    const double weight = 1 - mask[i * step];
    for (int64_t c = 0; c < size; ++c) sum[c] += weight * static_cast<double>(blocks[i * stride + c]);
  }
}

/// rows [n, D] times the state in w.h, or times its transpose, to out [n, W].
void multiply(const BackwardCall& call, int64_t n, const float* rows, bool transposed, float* out, const BackwardWorker& w) {
  const BackwardShape& s = call.shape;
  const int64_t lines = transposed ? s.width : s.dim;
  if (s.bf16) {
    call.ops.narrow_rows_bf16(rows, n * s.dim, w.left);
    (transposed ? call.ops.pack_keys_bf16 : call.ops.pack_values_bf16)(w.h, s.dim, s.width, lines, w.right);
    call.ops.gemm_bf16({n, s.width, s.dim / 2, w.left, s.dim / 2, 1, w.right, s.width, out, s.width, false});
    return;
  }
  (transposed ? kernels::pack_keys : kernels::pack_values)(w.h, s.dim, s.width, lines, w.h_panels);
  for (int64_t p = 0; p < s.panels; ++p)
    call.ops.panel_gemm(n, s.dim, rows, s.dim, 1, w.h_panels + p * lines * kPanel, out + p * kPanel, s.width, false);
}

/// H − z·rᵀ in place of H, r the mean of H's rows: dO·H_c − D·z_c nearly cancels where values are nearly equal, and only what is
/// left may be rounded. @return r [W], in `centre`
const float* centre_state(const BackwardShape& s, const float* z, float* h, float* centre) {
  double total = 0;
  for (int64_t c = 0; c < s.dim; ++c) total += static_cast<double>(z[c]);
  const auto share = static_cast<float>(total > 0 ? 1 / total : 0);
  std::fill_n(centre, s.width, 0.0F);
  for (int64_t c = 0; c < s.dim; ++c)
    for (int64_t e = 0; e < s.width; ++e) centre[e] += h[c * s.width + e];
  for (int64_t e = 0; e < s.width; ++e) centre[e] *= share;
  for (int64_t c = 0; c < s.dim; ++c)
    for (int64_t e = 0; e < s.width; ++e) h[c * s.width + e] -= z[c] * centre[e];
  return centre;
}

/// dH = (φ(Q)/g)ᵀ·dO_l from the rows in x2 and x3. What rounding a row of dO_l to bf16 does, all channels of φ do alike, and φ(K)
/// adds it up again: so only φ(Q)/g minus its mean row meets rounded rows, and the mean meets their sum in fp32. x2 is used up.
void state_gradient(const BackwardCall& call, int64_t n, float* state, const BackwardWorker& w) {
  const BackwardShape& s = call.shape;
  float *const mean = w.panels, *const d_mean = mean + s.dim;
  if (s.bf16) {
    call.ops.mean_rows(w.x2, n, s.dim, mean, 1);
    call.ops.mean_rows(w.x3, n, s.dim, d_mean, 1);
    call.ops.shift_rows(n, s.dim, mean, w.x2);
  }
  outer_product(call, n, w.x2, w.x3, state, w);
  for (int64_t c = 0; c < s.dim && s.bf16; ++c) {
    const float sum = mean[c] * static_cast<float>(n);
    for (int64_t e = 0; e < s.dim; ++e) state[c * s.width + e] += sum * d_mean[e];
  }
}

/// ∂/∂(1 − M) of every query block on key block j: ⟨dH, h_j⟩ + ⟨dZ, z_j⟩; turned into logits of a soft mask.
void soft_logits(const BackwardShape& s, const UnitBuffers& b, int64_t j) {
  const int64_t size = s.dim * s.width;
  for (int64_t u = 0; u < s.blocks; ++u) {
    const double m = b.mask[u * s.key_blocks + j];
    const double weight =
        s.shares ? dot(b.d_h + u * size, b.h + j * size, size) + dot(b.d_z + u * s.dim, b.z + j * s.dim, s.dim) : 0;
    b.d_logit[u * s.key_blocks + j] = -m * (1 - m) * weight;
  }
}

}  // namespace

void outer_product(const BackwardCall& call, int64_t n, const float* left, const float* right, float* state,
                   const BackwardWorker& w) {
  const BackwardShape& s = call.shape;
  if (s.bf16) {
    const int64_t pairs = (n + 1) / 2;
    call.ops.pack_values_bf16(left, n, s.dim, 2 * pairs, w.left);
    call.ops.pack_values_bf16(right, n, s.dim, 2 * pairs, w.right);
    call.ops.gemm_bf16({s.dim, s.width, pairs, w.left, 1, s.width, w.right, s.width, state, s.width, false});
    return;
  }
  kernels::pack_values(right, n, s.dim, n, w.panels);
  for (int64_t p = 0; p < s.panels; ++p)
    call.ops.panel_gemm(s.dim, n, left, 1, s.dim, w.panels + p * n * kPanel, state + p * kPanel, s.width, false);
}

void linear_forward(const BackwardCall& call, const UnitBuffers& b, int64_t u, const Blocks& in, const Blocks& out,
                    const BackwardWorker& w) {
  const BackwardShape& s = call.shape;
  const int64_t n = s.query_rows(u), size = s.dim * kPanel;
  const bool weighted = s.soft && s.shares;
  const double* const mask = weighted ? b.mask + u * s.key_blocks : nullptr;
  call.ops.feature_map(n, s.dim, w.x2);
  for (int64_t p = 0; p < s.panels; ++p) {
    if (weighted) {
      sum_weighted(mask, 1, s.key_blocks, size, b.h + p * size, s.panels * size, w.h_sum);
    } else {
      sum_blocks(call, in, out, size, b.h + p * size, s.panels * size, b.h_total + p * size, w.h_sum);
    }
    for (int64_t i = 0; i < size; ++i) w.h[p * size + i] = static_cast<float>(w.h_sum[i]);
  }
  if (weighted) {
    sum_weighted(mask, 1, s.key_blocks, s.dim, b.z, s.dim, w.z_sum);
  } else {
    sum_blocks(call, in, out, s.dim, b.z, s.dim, b.z_total, w.z_sum);
  }
  multiply(call, n, w.x2, false, w.o_linear, w);
  for (int64_t r = 0; r < n; ++r) {
    const double rest = dot(w.x2 + r * s.dim, w.z_sum, s.dim), total = dot(w.x2 + r * s.dim, b.z_total, s.dim);
    const double floor = kDenominatorFloor * total;
    w.floored[r] = rest < floor;
    const double denominator = rest < floor ? floor : rest;  // NaN stays NaN
    w.inverse[r] = in.count == 0 || denominator == 0 ? 0.0 : 1.0 / denominator;
    const auto factor = static_cast<float>(w.inverse[r]);
    float* const row = w.o_linear + r * s.width;
    for (int64_t c = 0; c < s.width; ++c) row[c] = factor == 0 ? 0.0F : row[c] * factor;
  }
}

void linear_backward(const BackwardCall& call, const UnitBuffers& b, int64_t u, const BackwardWorker& w) {
  const BackwardShape& s = call.shape;
  const int64_t n = s.query_rows(u);
  float *const z = w.panels, *const floor = z + s.dim, *const centre = floor + s.dim;
  for (int64_t c = 0; c < s.dim; ++c) {
    z[c] = static_cast<float>(w.z_sum[c]);
    floor[c] = static_cast<float>(kDenominatorFloor * b.z_total[c]);
  }
  call.ops.row_dots(n, s.dim, w.x3, s.dim, centre_state(s, z, w.h, centre), 0, w.dots);
  multiply(call, n, w.x3, true, w.d_phi, w);  // dO_l · (H − z·rᵀ)ᵀ
  for (int64_t r = 0; r < n; ++r) {
    const bool floored = w.floored[r] != 0;
    const auto by_z = static_cast<float>(floored ? w.dots[r] : w.dots[r] - w.d_linear_mean[r]),
               by_floor = static_cast<float>(floored ? -w.d_linear_mean[r] : 0), inverse = static_cast<float>(w.inverse[r]);
    float* const row = w.d_phi + r * s.width;
    for (int64_t c = 0; c < s.dim; ++c) row[c] = inverse == 0 ? 0.0F : (row[c] + by_z * z[c] + by_floor * floor[c]) * inverse;
  }
  call.ops.through_features(n, s.dim, w.x2, w.d_phi, s.width, b.d_q + u * s.block_q * s.width);

  float *const d_z = b.d_z + u * s.dim, *const d_floor = b.d_floor + u * s.dim;
  std::fill_n(w.z_sum, s.dim, 0.0);
  std::fill_n(w.h_sum, s.dim, 0.0);
  for (int64_t r = 0; r < n; ++r) {
    double* const sum = w.floored[r] != 0 ? w.h_sum : w.z_sum;
    const double factor = w.d_linear_mean[r] * (w.floored[r] != 0 ? kDenominatorFloor : 1);
    const auto inverse = static_cast<float>(w.inverse[r]);
    float* const phi = w.x2 + r * s.dim;
    for (int64_t c = 0; c < s.dim; ++c) phi[c] = inverse == 0 ? 0.0F : phi[c] * inverse;
    for (int64_t c = 0; c < s.dim; ++c) sum[c] -= factor * static_cast<double>(phi[c]);
  }
  for (int64_t c = 0; c < s.dim; ++c) d_z[c] = static_cast<float>(w.z_sum[c]), d_floor[c] = static_cast<float>(w.h_sum[c]);
  state_gradient(call, n, b.d_h + u * s.dim * s.width, w);
}

void linear_totals(const BackwardCall& call) {
  for_units(call, call.shape.panels, [](const BackwardCall& c, int64_t unit, int64_t panel, const BackwardWorker&) {
    const BackwardShape& s = c.shape;
    const UnitBuffers b = c.space.unit(unit);
    const int64_t size = s.dim * kPanel;
    const auto total = [&](int64_t count, const float* blocks, int64_t stride, double* out) {
      c.ops.block_sum(count, blocks, stride, c.space.all_blocks, s.blocks, 1.0, nullptr, out);
    };
    total(size, b.d_h + panel * size, s.panels * size, b.d_h_total + panel * size);
    if (panel > 0) return;
    total(s.dim, b.d_z, s.dim, b.d_z_total);
    total(s.dim, b.d_floor, s.dim, b.d_floor_total);
  });
}

void linear_keys(const BackwardCall& call, int64_t unit, int64_t j, const BackwardWorker& w) {
  const BackwardShape& s = call.shape;
  const UnitBuffers b = call.space.unit(unit);
  const int64_t at = j * s.block_k * s.width, size = s.dim * kPanel;
  if (s.soft && j < s.key_blocks) {
    if (s.linear) {
      soft_logits(s, b, j);
    } else {
      for (int64_t u = 0; u < s.blocks; ++u) b.d_logit[u * s.key_blocks + j] = 0;
    }
  }
  if (!s.linear || j >= s.key_blocks) {
    std::fill_n(b.d_k + at, s.block_k * s.width, 0.0F);
    std::fill_n(b.d_v + at, s.block_k * s.width, 0.0F);
    return;
  }
  const bool weighted = s.soft && s.shares;
  Blocks in{w.in, 0}, out{w.out, 0};
  for (int64_t u = 0; u < s.blocks; ++u) {
    const bool seen = (b.state[j * s.blocks + u] & kNotLinear) == 0;
    (seen ? w.in[in.count++] : w.out[out.count++]) = static_cast<int32_t>(u);
  }
  const double* const mask = weighted ? b.mask + j : nullptr;
  for (int64_t p = 0; p < s.panels; ++p) {
    if (weighted) {
      sum_weighted(mask, s.key_blocks, s.blocks, size, b.d_h + p * size, s.panels * size, w.h_sum);
    } else {
      sum_blocks(call, in, out, size, b.d_h + p * size, s.panels * size, b.d_h_total + p * size, w.h_sum);
    }
    for (int64_t i = 0; i < size; ++i) w.h[p * size + i] = static_cast<float>(w.h_sum[i]);
  }
  if (weighted) {
    sum_weighted(mask, s.key_blocks, s.blocks, s.dim, b.d_z, s.dim, w.z_sum);
  } else {
    sum_blocks(call, in, out, s.dim, b.d_z, s.dim, b.d_z_total, w.z_sum);
  }
  for (int64_t c = 0; c < s.dim; ++c) w.z_sum[c] += b.d_floor_total[c];

  const int64_t n = s.token_keys(j), head = call.unit_index(unit), heads = s.config.kv_heads;
  call.ops.load_rows(rows_of(call.in.k, head, heads), j * s.block_k, n, s.dim, 1.0F, w.x0);
  if (s.config.smooth_k) call.ops.shift_rows(n, s.dim, b.shift, w.x0);
  call.ops.feature_map(n, s.dim, w.x0);
  call.ops.load_rows(rows_of(call.in.v, head, heads), j * s.block_k, n, s.dim, 1.0F, w.x1);
  multiply(call, n, w.x0, false, b.d_v + at, w);  // dV = φ(K)·A
  float *const line = w.panels, *const mean = line + s.dim;
  call.ops.mean_rows(w.x1, n, s.dim, mean, 1);
  std::fill(mean + s.dim, mean + s.width, 0.0F);
  for (int64_t c = 0; c < s.dim; ++c) line[c] = static_cast<float>(w.z_sum[c] + dot(w.h + c * s.width, mean, s.dim));
  call.ops.shift_rows(n, s.dim, mean, w.x1);
  multiply(call, n, w.x1, true, w.d_phi, w);  // dφ(K) = V·Aᵀ + 1·bᵀ, the mean of V with b: they nearly cancel
  for (int64_t t = 0; t < n; ++t)
    for (int64_t c = 0; c < s.dim; ++c) w.d_phi[t * s.width + c] += line[c];
  call.ops.through_features(n, s.dim, w.x0, w.d_phi, s.width, b.d_k + at);
  std::fill_n(b.d_k + at + n * s.width, (s.block_k - n) * s.width, 0.0F);
  std::fill_n(b.d_v + at + n * s.width, (s.block_k - n) * s.width, 0.0F);
  if (s.config.smooth_k) return;
  double* const sum = b.column_sums + j * s.dim;  // what K receives here does not come through K − μ
  std::fill_n(sum, s.dim, 0.0);
  for (int64_t t = 0; t < n; ++t)
    for (int64_t c = 0; c < s.dim; ++c) sum[c] -= static_cast<double>(b.d_k[at + t * s.width + c]);
}

}  // namespace sla2::attention
