// SPDX-License-Identifier: Apache-2.0
// What is left of the backward, a row or a column at a time: statistics from the caller's out, sums over blocks, results out.
#include "kernels/cuda/backward_fragments.h"
#include "kernels/cuda/state.h"

namespace sla2::cuda {

SLA2_KERNEL(sla2_backward_given, kMaxThreads, 1, GivenParams) {
  const QueryRows rows = own_rows(p.a);
  const int64_t all = p.query_tiles * int64_t{64};
  const int64_t at = rows.head * all + static_cast<int64_t>(block_x()) * p.a.block_q + kWarpRows * rows.warp;
  const float* const mean = p.a.shift == nullptr ? nullptr : p.a.shift + rows.head / p.a.heads_per_key * p.a.dim;
  for (int32_t row = 0; row < kWarpRows; ++row) {
    float dot = 0, shift = 0;
    const bool has = row < rows.inside;
    const int64_t token = rows.first + row;
    for (auto c = static_cast<int32_t>(2 * rows.lane); has && c < p.a.dim; c += 64) {
      const Pair out = load_pair(p.a.out, row_at(p.a.out, rows.head, token), c, p.a.dim),
                 d = load_pair(p.d_out, row_at(p.d_out, rows.head, token), c, p.a.dim);
      const uint32_t bits = pack_bf16(d.x, d.y);  // as dO enters dP: what rounding took must be missing in both
      dot += out.x * from_bf16(bits & 0xFFFFU) + out.y * bits_to_float(bits & 0xFFFF0000U);
      if (mean == nullptr) continue;
      const Pair q = load_pair(p.a.q, row_at(p.a.q, rows.head, token), c, p.a.dim);
      shift += q.x * mean[c] + q.y * mean[c + 1];
    }
    dot = warp_sum(dot), shift = warp_sum(shift);
    if (rows.lane != 0) continue;
    p.out.top[at + row] = has ? p.a.lse[rows.head * p.a.query_tokens + token] * kLog2E - shift * p.a.scale : 0.0F;
    p.out.weight[at + row] = has ? 1.0F : 0.0F;
    p.out.mean[at + row] = has ? dot : 0.0F;
  }
}

SLA2_KERNEL(sla2_backward_columns, kPrepareThreads, 4, ColumnsParams) {
  const int64_t block = block_x(), head = block_y(), first = block * p.block_k, left = p.key_tokens - first;
  const int64_t n = left < p.block_k ? left : p.block_k;
  const float* const rows = p.d_keys + (head * p.key_blocks * p.block_k + first) * p.width;
  for (uint32_t c = thread_index(); c < static_cast<uint32_t>(p.width); c += kPrepareThreads) {
    float sum = 0;
    for (int64_t t = 0; t < n; ++t) sum += rows[t * p.width + c];
    float& out = p.sums[(head * p.key_blocks + block) * p.width + c];
    out = (p.add != 0 ? out : 0.0F) + p.sign * sum;
  }
}

SLA2_KERNEL(sla2_backward_totals, kPrepareThreads, 4, RowTotalsParams) {
  const int64_t head = block_y();
  for (uint32_t c = thread_index(); c < static_cast<uint32_t>(p.width); c += kPrepareThreads) {
    TwoSum sum;
    for (int64_t i = 0; i < p.count; ++i) sum.add(p.blocks[(head * p.count + i) * p.width + c]);
    p.total[head * p.width + c] = sum.value() * p.factor;
  }
}

SLA2_KERNEL(sla2_backward_store, kPrepareThreads, 4, StoreParams) {
  const int64_t head = block_y();
  for (uint32_t row = thread_index() / 32; row < kTileKeys; row += kPrepareThreads / 32) {
    const int64_t token = static_cast<int64_t>(block_x()) * kTileKeys + row;
    if (token >= p.tokens) return;
    const float* const from = p.from + (head * p.rows + token) * p.width;
    const int64_t at = row_at(p.out, head, token);
    for (auto c = static_cast<int32_t>(2 * (thread_index() % 32)); c < p.dim; c += 64) {
      Pair x{from[c], from[c + 1]};
      if (p.line != nullptr) x.x -= p.line[head * p.width + c], x.y -= p.line[head * p.width + c + 1];
      switch (store_way(p.out)) {
        case Store::kF32: store_pair<Store::kF32>(p.out, at + c, x); break;
        case Store::kBf16Pairs: store_pair<Store::kBf16Pairs>(p.out, at + c, x); break;
        case Store::kF16Pairs: store_pair<Store::kF16Pairs>(p.out, at + c, x); break;
        case Store::kBf16: store_pair<Store::kBf16>(p.out, at + c, x); break;
        default: store_pair<Store::kF16>(p.out, at + c, x);
      }
    }
  }
}

SLA2_KERNEL(sla2_backward_mix, kPrepareThreads, 4, MixParams) {
  for (auto at = static_cast<int32_t>(thread_index()); at < p.rows * p.columns; at += kPrepareThreads) {
    const int32_t row = at / p.columns, column = at % p.columns, part = p.affine != 0 && column == 0 ? 0 : 1;
    const int32_t first = p.by_block != 0 ? column : 0, end = p.by_block != 0 ? column + 1 : p.query_blocks;
    TwoSum sum;
    for (int64_t head = row; p.parts != nullptr && head < p.all_heads; head += p.rows)
      for (int32_t i = first; i < end; ++i) sum.add(p.parts[2 * (head * p.query_blocks + i) + part]);
    p.out[at] = sum.value();
  }
}

SLA2_KERNEL(sla2_backward_zero, kPrepareThreads, 4, ZeroParams) {
  const int64_t at = static_cast<int64_t>(block_x()) * kPrepareThreads + thread_index();
  if (at < p.count) p.out[at] = 0;
}

}  // namespace sla2::cuda
