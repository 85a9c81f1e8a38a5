// SPDX-License-Identifier: Apache-2.0
// The softmax branch's gradient, seen from a query block: row statistics in one walk over its tiles, dQ in another.
#pragma once
#include "kernels/cuda/backward_fragments.h"
#include "kernels/cuda/backward_walk.h"

namespace sla2::cuda {

/// Largest logit, sum of weights and Σ weight · dP of each row. dP comes from the very products that it is later compared to, so
/// that dP - mean vanishes where one key has all the weight.
template <int kWidth>
SLA2_DEVICE void row_statistics(const StatisticsParams& p) {
  const QueryRows rows = own_rows(p.a);
  const uint32_t t = rows.t;
  const int64_t block_row = static_cast<int64_t>(block_x()) * p.a.block_q + kWarpRows * rows.warp,
                all = p.query_tiles * int64_t{64};
  LeftRows<kWidth> q, d_out;
  q.load(p.queries + rows.head * all * kWidth * 2, block_row);
  d_out.load(p.gradients + rows.head * all * kWidth * 2, block_row);
  float m[2] = {-infinity(), -infinity()}, l[2] = {0, 0}, d[2] = {0, 0};
  TilePairs<kWidth>::walk(p.a, rows.head / p.a.heads_per_key, [&](uint32_t keys, uint32_t values, int64_t columns) {
#pragma unroll 1
    for (uint32_t first = 0; first < kTileKeys; first += kHalfRows) {
      Part s, dp;
      multiply_rows<kTileKeys, kWidth>(q.a, keys, first, s);
      multiply_rows<kTileKeys, kWidth>(d_out.a, values, first, dp);
#pragma unroll
      for (uint32_t n = 0; n < kHalfRows / 8; ++n)
#pragma unroll
        for (uint32_t i = 0; i < 4; ++i)
          s.x[n][i] = static_cast<int64_t>(first + n * 8 + 2 * t + i % 2) < columns ? s.x[n][i] * p.a.scale : -infinity();
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        float top = m[i];
#pragma unroll
        for (auto& four : s.x) top = largest(top, largest(four[2 * i], four[2 * i + 1]));
        top = quad_max(top);
        const float factor = top == m[i] ? 1.0F : exp2_fast(m[i] - top), origin = top == -infinity() ? 0.0F : top;
        m[i] = top, l[i] *= factor, d[i] *= factor;
#pragma unroll
        for (int n = 0; n < kHalfRows / 8; ++n)
#pragma unroll
          for (int j = 2 * i; j < 2 * i + 2; ++j) {
            const float weight = exp2_fast(s.x[n][j] - origin);
            l[i] += weight, d[i] += weight == 0 ? 0.0F : weight * dp.x[n][j];
          }
      }
    }
  });
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const float sum = quad_sum(l[i]), dot = quad_sum(d[i]);
    if (t != 0) continue;
    const int64_t at = rows.head * all + block_row + rows.g + 8 * i;
    const bool has = rows.has(i);
    p.out.top[at] = has && m[i] != -infinity() ? m[i] : 0.0F;
    p.out.weight[at] = has ? 1 / sum : 0.0F;
    p.out.mean[at] = has ? dot / sum : 0.0F;
  }
}

/// dQ = d_queries + s · dS · K, to the caller's tensor.
template <int kWidth>
SLA2_DEVICE void query_gradients(const QueriesParams& p) {
  const QueryRows rows = own_rows(p.a);
  const int64_t block_row = static_cast<int64_t>(block_x()) * p.a.block_q + kWarpRows * rows.warp,
                all = p.query_tiles * int64_t{64};
  const int64_t row = rows.head * all + block_row;
  float sum[kWidth / 8][4];
  read_rows<kWidth>(p.d_queries == nullptr ? nullptr : p.d_queries + row * kWidth, sum);
  if (p.a.join != kJoinLinear) {
    LeftRows<kWidth> q, d_out;
    q.load(p.queries + rows.head * all * kWidth * 2, block_row);
    d_out.load(p.gradients + rows.head * all * kWidth * 2, block_row);
    float top[2], weight[2], mean[2];
    for (int i = 0; i < 2; ++i) {
      const int64_t at = row + rows.g + 8 * i;
      top[i] = p.rows.top[at], weight[i] = p.rows.weight[at], mean[i] = p.rows.mean[at];
    }
    TilePairs<kWidth>::walk(p.a, rows.head / p.a.heads_per_key, [&](uint32_t keys, uint32_t values, int64_t columns) {
#pragma unroll 1
      for (uint32_t first = 0; first < kTileKeys; first += kHalfRows) {
        Part s, dp;
        multiply_rows<kTileKeys, kWidth>(q.a, keys, first, s);
        multiply_rows<kTileKeys, kWidth>(d_out.a, values, first, dp);
#pragma unroll
        for (uint32_t n = 0; n < kHalfRows / 8; ++n)
#pragma unroll
          for (uint32_t i = 0; i < 4; ++i) {
            const float x = exp2_fast(s.x[n][i] * p.a.scale - top[i / 2]) * weight[i / 2];
            const bool there = static_cast<int64_t>(first + n * 8 + 2 * rows.t + i % 2) < columns;
            s.x[n][i] = there ? x * (dp.x[n][i] - mean[i / 2]) * p.softmax_scale : 0.0F;
          }
        add_product<kTileKeys, kWidth>(s, keys, first, sum);
      }
    });
  }
  switch (store_way(p.a.out)) {
    case Store::kF32: store_rows<Store::kF32>(p.a, rows, sum); break;
    case Store::kBf16Pairs: store_rows<Store::kBf16Pairs>(p.a, rows, sum); break;
    case Store::kF16Pairs: store_rows<Store::kF16Pairs>(p.a, rows, sum); break;
    case Store::kBf16: store_rows<Store::kBf16>(p.a, rows, sum); break;
    default: store_rows<Store::kF16>(p.a, rows, sum);
  }
}

}  // namespace sla2::cuda
