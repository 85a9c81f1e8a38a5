// SPDX-License-Identifier: Apache-2.0
// One query block of one head, start to end: route, softmax over the kept key blocks, linear branch over the others, mix.
// Everything it touches beside the head's packed arrays is in one worker's scratch (about 300 KB at D 128: fits L2).
#include <cmath>
#include <limits>

#include "attention/forward.h"
#include "kernels/merge_rows.h"
#include "kernels/top_blocks.h"

namespace sla2::attention {
namespace {

using kernels::kPanel;

constexpr double kLog2E = 1.4426950408889634, kLn2 = 0.6931471805599453;
constexpr double kDenominatorFloor = 1e-6;  // ε of the linear branch, relative to φ(q)·z over all keys

/// Softmax branch over `count` key blocks (list null: blocks 0 … count-1). Leaves Σ p·v in acc, m and l in base 2.
void sparse_branch(const Call& call, const HeadBuffers& head, int64_t n, const int32_t* list, int64_t count,
                   const WorkerBuffers& w) {
  const Geometry& g = call.geometry;
  for (int64_t r = 0; r < n; ++r) {
    w.m[r] = -std::numeric_limits<float>::infinity();
    w.l[r] = 0;
  }
  for (int64_t i = 0; i < count; ++i) {
    const int64_t j = list == nullptr ? i : list[i];
    const int64_t keys = g.key_rows(j), key_panels = kernels::panels_of(keys);
    const float* const key_block = head.keys + j * g.block_k * g.dim;
    const float* const value_block = head.values + j * g.panels * g.block_k * kPanel;
    for (int64_t p = 0; p < key_panels; ++p)
      call.ops.panel_gemm(n, g.dim, w.q, g.dim, 1, key_block + p * g.dim * kPanel, w.tile + p * kPanel, g.block_k, false);
    const float* bias = nullptr;
    if (call.key_bias != nullptr) {
      bias = call.workspace.bias + j * g.block_k;
    } else if (keys < g.block_k) {
      bias = call.workspace.tail_bias;
    }
    const bool rescale = call.ops.online_softmax(n, key_panels * kPanel, w.tile, g.block_k, bias, w.m, w.l, w.rescale);
    if (rescale && i > 0) call.ops.rescale_rows(n, g.panels, w.rescale, w.acc);
    for (int64_t p = 0; p < g.panels; ++p)
      call.ops.panel_gemm(n, keys, w.tile, g.block_k, 1, value_block + p * g.block_k * kPanel, w.acc + p * n * kPanel, kPanel,
                          i > 0);
  }
}

/// The same with bf16 products, from fp32 queries that are not scaled yet; acc is [n][P·16].
void sparse_branch_bf16(const Call& call, const HeadBuffers& head, int64_t n, const int32_t* list, const WorkerBuffers& w) {
  const Geometry& g = call.geometry;
  call.ops.narrow_rows_bf16(w.q, n * g.dim, w.q_bf16);
  call.ops.attend_bf16({n, g.dim, g.block_k, g.config.key_tokens, w.q_bf16, head.keys_bf16, head.values_bf16, list, g.kept,
                        call.key_bias == nullptr ? nullptr : call.workspace.bias, call.workspace.tail_bias,
                        static_cast<float>(g.scale * kLog2E), w.m, w.l, w.acc, w.weights_bf16, w.sums});
}

/// R, then order[0, kept) and order[kept, T_n).
void route(const Call& call, const HeadBuffers& head, int64_t n, const float* q_rows, const WorkerBuffers& w) {
  const Geometry& g = call.geometry;
  kernels::mean_rows(q_rows, n, g.dim, w.q_mean, 1);
  call.ops.route_scores(g.dim, g.route_row, w.q_mean, head.means, g.scale, w.routes);
  kernels::top_blocks(g.key_blocks, g.kept, w.routes, w.order);
}

/// Sum of per-block arrays over the complement, by the shorter of two ways: totals minus selected, or added up.
void sum_rest(const Call& call, int64_t count, const float* blocks, int64_t stride, const double* total, const WorkerBuffers& w,
              double* out) {
  const Geometry& g = call.geometry;
  const int64_t rest = g.key_blocks - g.kept;
  if (g.kept <= rest) {
    call.ops.block_sum(count, blocks, stride, w.order, g.kept, -1.0, total, out);
  } else {
    call.ops.block_sum(count, blocks, stride, w.order + g.kept, rest, 1.0, nullptr, out);
  }
}

/// Numerator φ(q)·H in w.linear; 1 / denominator in w.w_linear, 0 where φ(q) meets no key at all.
void linear_branch(const Call& call, const HeadBuffers& head, int64_t n, const WorkerBuffers& w) {
  const Geometry& g = call.geometry;
  const int64_t size = g.dim * kPanel;
  call.ops.feature_map(n, g.dim, w.q_phi);
  for (int64_t p = 0; p < g.panels; ++p) {
    sum_rest(call, size, head.h + p * size, g.panels * size, head.h_total + p * size, w, w.h_sum);
    for (int64_t i = 0; i < size; ++i) w.h_left[i] = static_cast<float>(w.h_sum[i]);
    call.ops.panel_gemm(n, g.dim, w.q_phi, g.dim, 1, w.h_left, w.linear + p * n * kPanel, kPanel, false);
  }
  sum_rest(call, g.dim, head.z, g.dim, head.z_total, w, w.z_sum);
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

/// log Σ over the complement of b_j · exp(R_j): the pooled estimate of what the softmax would have given the rest.
double rest_log_sum(const Geometry& g, const WorkerBuffers& w) {
  double top = -std::numeric_limits<double>::infinity();
  for (int64_t i = g.kept; i < g.key_blocks; ++i) top = std::max(top, w.routes[w.order[i]]);
  double sum = 0;
  for (int64_t i = g.kept; i < g.key_blocks; ++i)
    sum += static_cast<double>(g.key_rows(w.order[i])) * std::exp(w.routes[w.order[i]] - top);
  return top + std::log(sum);
}

/// Turn l and 1/denominator into the weights a / l and (1 - a) / denominator. @return Σ rows (1 - a)
double mix(const Geometry& g, int64_t n, const WorkerBuffers& w) {
  const double rest = g.config.mix == Mix::kHeadAffineLse ? rest_log_sum(g, w) : 0;
  double linear_weight = 0;
  for (int64_t r = 0; r < n; ++r) {
    const double l = static_cast<double>(w.l[r]);
    double logit = g.config.mix_bias;
    if (g.config.mix == Mix::kHeadAffineLse) {
      const double log_sum = (static_cast<double>(w.m[r]) + std::log2(l)) * kLn2;  // natural, on keys minus their mean
      logit += g.config.mix_scale * (log_sum - rest);
    }
    // Both shares from one exponential, so that 1 - a keeps its digits when a is close to 1.
    const double away = std::exp(-std::abs(logit));
    const double big = 1 / (1 + away), small = away / (1 + away);
    double a = logit >= 0 ? big : small, one_minus_a = logit >= 0 ? small : big;
    if (std::isnan(logit)) a = one_minus_a = logit;
    if (w.w_linear[r] == 0) {  // nothing left for the linear branch
      a = 1;
      one_minus_a = 0;
    }
    w.w_sparse[r] = static_cast<float>(a / l);
    w.w_linear[r] = static_cast<float>(one_minus_a * static_cast<double>(w.w_linear[r]));
    linear_weight += one_minus_a;
  }
  return linear_weight;
}

}  // namespace

void run_query_block(const Call& call, int64_t head_in_group, int64_t block, const WorkerBuffers& w) {
  const Geometry& g = call.geometry;
  const HeadBuffers head = call.workspace.head(head_in_group);
  const int64_t head_index = call.first_head + head_in_group;
  const int64_t first = block * g.block_q, n = g.query_rows(block);
  const kernels::RowSource queries = rows_of(call.q, head_index, g.config.heads);
  // bf16 products scale the logits instead, so that queries that came as bf16 stay exact.
  kernels::load_rows(queries, first, n, g.dim, g.bf16 ? 1.0F : static_cast<float>(g.scale * kLog2E), w.q);
  const int32_t* list = nullptr;
  if (g.mode == Mode::kSla2) {
    kernels::load_rows(queries, first, n, g.dim, 1.0F, w.q_phi);
    route(call, head, n, w.q_phi, w);
    list = w.order;
  }
  kernels::MergeInput merge{w.acc, w.w_sparse};
  if (g.bf16) {
    sparse_branch_bf16(call, head, n, list, w);
    merge.sparse_row = g.panels * kPanel;
  } else {
    sparse_branch(call, head, n, list, g.kept, w);
  }
  if (g.mode == Mode::kFull) {
    for (int64_t r = 0; r < n; ++r) w.w_sparse[r] = w.l[r] == 0 ? 0.0F : 1.0F / w.l[r];  // every key masked: 0
  } else {
    linear_branch(call, head, n, w);
    call.workspace.linear_weight[head_index * g.query_blocks + block] = mix(g, n, w);
    merge.linear = w.linear;
    merge.w_linear = w.w_linear;
  }
  const int64_t at = head_index / g.config.heads * call.out.stride_batch + head_index % g.config.heads * call.out.stride_head +
                     first * call.out.stride_token;
  auto* const out = static_cast<std::byte*>(call.out.data) + at * static_cast<int64_t>(dtype_size(call.out.dtype));
  kernels::merge_rows(merge, n, g.dim, out, call.out.dtype, call.out.stride_token);
}

}  // namespace sla2::attention
