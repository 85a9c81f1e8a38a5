// SPDX-License-Identifier: Apache-2.0
// Every kept pair (query block u, key block j) once, five products: S, dP; dQ += dS·K, dV += Pᵀ·dO, dK += dSᵀ·Q.
//
// dQ sums over j and dK, dV over u, so two workers must never meet in either. The pairs are cut into chunks x chunks parts; in
// step t the part (t + c, c) of every column c is one task: no two tasks of a step share a query block or a key block, and the
// order of every sum follows from the shape alone. Nothing is computed twice (a pass for dQ and one for dK, dV would be seven
// products), no sum is kept twice, and a part's queries stay in L3 while its keys pass.
#include <cmath>
#include <limits>

#include "attention/backward_parts.h"
#include "kernels/panel_gemm.h"

namespace sla2::attention {
namespace {

using kernels::kPanel;

struct Pair {
  const BackwardCall& call;
  const BackwardShape& s;
  const UnitBuffers& b;
  const BackwardWorker& w;
  int64_t u, j, n, keys;
  int64_t q_rows, q_panels, k_lines, k_panels;  ///< where their operands begin

  Pair(const BackwardCall& c, const UnitBuffers& buffers, const BackwardWorker& worker, int64_t query, int64_t key)
      : call(c),
        s(c.shape),
        b(buffers),
        w(worker),
        u(query),
        j(key),
        n(s.query_rows(u)),
        keys(s.keys(j)),
        q_rows(u * s.block_q * s.dim),
        q_panels(u * s.block_q * s.width),
        k_lines(j * s.block_k * s.dim),
        k_panels(j * s.block_k * s.width) {}

  [[nodiscard]] kernels::SoftmaxGradient weights() const {
    return {n,
            keys,
            w.s,
            w.d,
            s.block_k,
            b.top + u * s.block_q,
            b.weight + u * s.block_q,
            b.mean + u * s.block_q,
            tile_bias(call, b, u, j, false, w.bias),
            s.bf16 ? static_cast<float>(s.scale * kBackwardLog2E) : 1.0F,  // fp32 queries are in base 2
            static_cast<float>(s.scale)};
  }
};

void tile_f32(const Pair& x) {
  const auto& [call, s, b, w, u, j, n, keys, q_rows, q_panels, k_lines, k_panels] = x;
  const auto& ops = call.ops;
  const int64_t line = s.dim * kPanel;
  for (int64_t p = 0; p < kernels::panels_of(keys); ++p) {
    ops.panel_gemm(n, s.dim, b.f32.q_rows + q_rows, s.dim, 1, b.f32.k_lines + k_lines + p * line, w.s + p * kPanel, s.block_k,
                   false);
    ops.panel_gemm(n, s.dim, b.f32.g_rows + q_rows, s.dim, 1, b.f32.v_lines + k_lines + p * line, w.d + p * kPanel, s.block_k,
                   false);
  }
  ops.softmax_gradient(x.weights());
  for (int64_t p = 0; p < s.panels; ++p) {
    const int64_t query_panel = q_panels + p * s.block_q * kPanel;
    ops.panel_gemm(n, keys, w.d, s.block_k, 1, b.f32.k_panels + k_panels + p * s.block_k * kPanel, b.d_q + q_panels + p * kPanel,
                   s.width, true);
    ops.panel_gemm(keys, n, w.s, 1, s.block_k, b.f32.g_panels + query_panel, b.d_v + k_panels + p * kPanel, s.width, true);
    ops.panel_gemm(keys, n, w.d, 1, s.block_k, b.f32.q_panels + query_panel, b.d_k + k_panels + p * kPanel, s.width, true);
  }
}

void tile_bf16(const Pair& x) {
  const auto& [call, s, b, w, u, j, n, keys, q_rows, q_panels, k_lines, k_panels] = x;
  const auto& gemm = call.ops.gemm_bf16;
  const int64_t columns = kernels::panels_of(keys) * kPanel, depth = s.dim / 2, rows = (n + 1) / 2;
  gemm({n, columns, depth, b.bf16.q_rows + q_rows, depth, 1, b.bf16.k_lines + k_lines, s.block_k, w.s, s.block_k, false});
  gemm({n, columns, depth, b.bf16.g_rows + q_rows, depth, 1, b.bf16.v_lines + k_lines, s.block_k, w.d, s.block_k, false});
  call.ops.softmax_gradient_bf16(x.weights(), {w.p_pairs, w.ds_pairs, w.ds});
  gemm(
      {n, s.width, (keys + 1) / 2, w.ds, s.block_k / 2, 1, b.bf16.k_panels + k_panels, s.width, b.d_q + q_panels, s.width, true});
  gemm({keys, s.width, rows, w.p_pairs, 1, s.block_k, b.bf16.g_panels + q_panels, s.width, b.d_v + k_panels, s.width, true});
  gemm({keys, s.width, rows, w.ds_pairs, 1, s.block_k, b.bf16.q_panels + q_panels, s.width, b.d_k + k_panels, s.width, true});
}

/// ∂/∂x of a soft mask σ(x): keys weigh M, mean keys b·(1 − M).
void add_logits(const Pair& x) {
  const BackwardShape& s = x.s;
  const double* const mask = x.b.mask + x.u * s.key_blocks;
  double* const d_logit = x.b.d_logit + x.u * s.key_blocks;
  double all = 0;
  for (int64_t t = 0; t < x.keys; ++t) {
    double sum = 0;
    for (int64_t r = 0; r < x.n; ++r) sum += static_cast<double>(x.w.d[r * s.block_k + t]);
    sum /= s.scale;
    all += sum;
    if (x.j < s.key_blocks) continue;
    const int64_t block = (x.j - s.key_blocks) * s.block_k + t;
    d_logit[block] -= mask[block] * sum;
  }
  if (x.j < s.key_blocks) d_logit[x.j] += (1 - mask[x.j]) * all;
}

void run_part(const BackwardCall& call, int64_t unit, int64_t query_part, int64_t key_part, const BackwardWorker& w) {
  const BackwardShape& s = call.shape;
  const UnitBuffers b = call.space.unit(unit);
  const auto edge = [&](int64_t part, int64_t count) { return part * count / s.chunks; };
  for (int64_t j = edge(key_part, s.all_key_blocks()); j < edge(key_part + 1, s.all_key_blocks()); ++j)
    for (int64_t u = edge(query_part, s.blocks); u < edge(query_part + 1, s.blocks); ++u) {
      if (j < s.key_blocks && (b.state[j * s.blocks + u] & kKept) == 0) continue;
      const Pair pair(call, b, w, u, j);
      s.bf16 ? tile_bf16(pair) : tile_f32(pair);
      if (s.soft) add_logits(pair);
    }
}

}  // namespace

const float* tile_bias(const BackwardCall& call, const UnitBuffers& b, int64_t u, int64_t j, bool tail, float* bias) {
  const BackwardShape& s = call.shape;
  const int64_t keys = s.keys(j);
  const bool mean_keys = j >= s.key_blocks;
  if (!mean_keys && !s.soft && (!tail || keys == s.block_k)) return nullptr;
  for (int64_t t = 0; t < keys; ++t) {
    const int64_t block = mean_keys ? (j - s.key_blocks) * s.block_k + t : j;
    const double m = s.soft ? b.mask[u * s.key_blocks + block] : (b.state[block * s.blocks + u] & kKept) != 0 ? 1 : 0;
    const double weight = mean_keys ? (1 - m) * static_cast<double>(s.token_keys(block)) : s.soft ? m : 1;
    bias[t] = static_cast<float>(std::log2(weight));
  }
  std::fill(bias + keys, bias + s.block_k, -std::numeric_limits<float>::infinity());
  return bias;
}

void backward_tiles(const BackwardCall& call) {
  if (!call.shape.softmax) return;
  struct Step {
    const BackwardCall& call;
    int64_t number;
  } step{call, 0};
  for (; step.number < call.shape.chunks; ++step.number)
    parallel_for(call.count * call.shape.chunks, [&step](int64_t index, int worker) {
      const int64_t chunks = step.call.shape.chunks, key_part = index % chunks;
      run_part(step.call, index / chunks, (step.number + key_part) % chunks, key_part, step.call.space.worker(worker));
    });
}

}  // namespace sla2::attention
