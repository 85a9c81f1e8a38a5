// SPDX-License-Identifier: Apache-2.0
// The forward of one query block: H of the linear branch into shared memory, the softmax branch over the listed tiles, both
// joined and stored. The branches run one after the other over the same list; why is in docs/kernels/cuda.md.
#pragma once
#include <type_traits>

#include "kernels/cuda/linear.h"
#include "kernels/cuda/softmax.h"

namespace sla2::cuda {

template <Store kWay, int kFragments>
SLA2_DEVICE void store_rows(const AttendParams& p, const QueryRows& rows, const float (&o)[kFragments][4]) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    if (!rows.has(i)) continue;
    const int64_t at = row_at(p.out, rows.head, rows.token(i)) + 2 * rows.t;
#pragma unroll
    for (int n = 0; n < kFragments; ++n)
      if (n * 8 < p.dim) store_pair<kWay>(p.out, at + n * 8, {o[n][2 * i], o[n][2 * i + 1]});
  }
}

/// vsa: gate ⊙ the row of softmax(R)·V̄.
template <int kWidth, typename Place = GridPlace>
SLA2_DEVICE void add_coarse(const AttendParams& p, const QueryRows& rows, float (&o)[kWidth / 8][4], const Place& place = {}) {
  const float* const coarse = p.coarse + query_block_row(p, place) * kWidth;
#pragma unroll 1
  for (int i = 0; i < 2; ++i) {
    if (!rows.has(i)) continue;
    const int64_t at = row_at(p.gate, rows.head, rows.token(i));
#pragma unroll
    for (int n = 0; n < kWidth / 8; ++n) {
      const auto channel = static_cast<int32_t>(n * 8 + 2 * rows.t);
      const Pair gate = load_pair(p.gate, at, channel, p.dim);
      const float x = gate.x * coarse[channel], y = gate.y * coarse[channel + 1];
      if (i == 0)
        o[n][0] += x, o[n][1] += y;
      else
        o[n][2] += x, o[n][3] += y;
    }
  }
}

/// Σ over the warp's rows of 1 - a, for the plan's statistics.
template <typename Place = GridPlace>
SLA2_DEVICE void store_linear_shares(const AttendParams& p, const QueryRows& rows, const float (&share)[2],
                                     const Place& at = {}) {
  float mine = 0;
  for (int i = 0; i < 2; ++i)
    if (rows.t == 0 && rows.has(i)) mine += share[i];
  mine = warp_sum(mine);
  if (rows.lane == 0) p.linear_shares[query_block_row(p, at) * (rows.threads() / 32) + rows.warp] = mine;
}

/// What the columns of a step's tile have added to their scores, where there is a soft mask or the tile is of mean keys: a key
/// counts M times, a mean key as often as its block has keys, times 1 - M; that of a kept block not at all.
template <typename Walk>
SLA2_DEVICE void place_bias(const AttendParams& p, const Walk& walk, int32_t step, uint32_t at) {
  const float* const soft = p.soft == nullptr ? nullptr : p.soft + query_block_row(p) * p.key_blocks;
  for (uint32_t c = thread_index(); c < kTileKeys; c += thread_count()) {
    float weight = 1;
    if (walk.is_mean(step)) {
      const int64_t j = static_cast<int64_t>(step - walk.listed) * kTileKeys + c, left = p.key_tokens - j * p.block_k;
      weight = j < p.key_blocks ? static_cast<float>(left < p.block_k ? left : p.block_k) : 0.0F;
      if (weight > 0 && soft != nullptr) weight *= 1 - soft[j];
      if (weight > 0 && soft == nullptr) {
        const uint32_t* const bits = p.kept_bits + query_block_row(p) * ((p.key_blocks + 31) / 32);
        if ((bits[j / 32] >> static_cast<uint32_t>(j % 32) & 1U) != 0) weight = 0;
      }
    } else {
      const int64_t block = (static_cast<int64_t>(step) * kTileKeys + c) / p.block_k;  // every block is listed
      if (block < p.key_blocks) weight = soft[block];
    }
    shared_store<float>(at + c * 4, log2_of(weight));
  }
}

/// The probe: full attention in o against what stands in `out`.
template <int kFragments, typename Place = GridPlace>
SLA2_DEVICE void compare_rows(const AttendParams& p, const QueryRows& rows, const float (&o)[kFragments][4],
                              const Place& place = {}) {
  float sums[kProbeSums] = {};
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    if (!rows.has(i)) continue;
    const int64_t at = row_at(p.out, rows.head, rows.token(i));
#pragma unroll
    for (int n = 0; n < kFragments; ++n) {
      const auto channel = static_cast<int32_t>(n * 8 + 2 * rows.t);
      if (channel >= p.dim) continue;
      const Pair ours = load_pair(p.out, at, channel, p.dim);
      const float full[2] = {o[n][2 * i], o[n][2 * i + 1]}, mine[2] = {ours.x, ours.y};
      for (int c = 0; c < 2; ++c) {
        const float apart = mine[c] - full[c];
        sums[0] += apart < 0 ? -apart : apart, sums[1] += full[c] < 0 ? -full[c] : full[c];
        sums[2] += mine[c] * full[c], sums[3] += mine[c] * mine[c], sums[4] += full[c] * full[c];
      }
    }
  }
  const int64_t row = static_cast<int64_t>(place.head()) * p.probes + place.x();
  float* const to = p.probe + (row * (rows.threads() / 32) + rows.warp) * kProbeSums;
  for (int i = 0; i < kProbeSums; ++i) {
    const float sum = warp_sum(sums[i]);
    if (rows.lane == 0) to[i] = sum;
  }
}

template <int kWidth, Products kProducts, bool kLinear>
SLA2_DEVICE void attend(const AttendParams& p) {
  constexpr AttendMap kMap = attend_map(kWidth, kProducts, kLinear);
  using Branch = SoftmaxBranch<kWidth, kProducts>;
  constexpr bool kMaySoften = kProducts == Products::kBf16;  // soft masks are for training: never in 8 bits
  const QueryRows rows = query_rows(p);
  const int64_t key_head = rows.head / p.heads_per_key;

  if constexpr (kLinear) {
    LinearBranch<kWidth>::template make_state<kMaySoften>(p, key_head, kMap.state);
    sync_threads();
  }

  Branch branch;
  branch.clear();
  float shift[2];
  {
    Queries<kWidth, kProducts> q;
    q.load(p, rows, kMap.keys);
    for (int i = 0; i < 2; ++i) shift[i] = q.shift[i];
    const TileWalk<!kLinear> walk(p, key_head);
    const int32_t steps = walk.steps();
    const unsigned char* const keys = p.keys + key_head * p.tiles * Branch::kKeyTile;
    const unsigned char* const values = p.values + key_head * p.tiles * Branch::kValueTile;
    if (steps > 0) walk.template copy<Branch::kKeyRow>(kMap.keys, keys, 0);
    copy_async_commit();
    for (int32_t step = 0; step < steps; ++step) {
      const bool biased = walk.is_mean(step) || (kMaySoften && p.soft != nullptr);
      if (biased) place_bias(p, walk, step, kMap.bias);
      copy_async_wait<0>();
      sync_threads();  // the key tile is there for all; nobody reads the value tile any more
      Branch::copy_values(walk, kMap.values, values, step);
      copy_async_commit();
      branch.score(q, kMap.keys, p.scale, walk, step);
      if (biased) branch.add_bias(kMap.bias);
      if (!walk.is_mean(step))
        branch.mask(walk.columns(step), p.key_bias == nullptr ? nullptr : p.key_bias + walk.tile(step) * kTileKeys);
      branch.weigh();
      copy_async_wait<0>();
      sync_threads();  // and the other way round
      if (step + 1 < steps) walk.template copy<Branch::kKeyRow>(kMap.keys, keys, step + 1);
      copy_async_commit();
      branch.add_values(kMap.values);
    }
    copy_async_wait<0>();
  }
  branch.finish(p.value_scale == nullptr ? nullptr : p.value_scale + key_head * kWidth);

  if (p.lse != nullptr && rows.t == 0)
    for (int i = 0; i < 2; ++i)
      if (rows.has(i)) p.lse[rows.head * p.query_tokens + rows.token(i)] = (shift[i] + branch.m[i] + log2_of(branch.l[i])) * kLn2;

  Shares weights[2];
  float share[2];
  if constexpr (kLinear) {
    sync_threads();  // nobody reads tiles any more
    QueryFeatures<kWidth> phi;
    phi.load(p, rows, LinearBranch<kWidth>::kRest, LinearBranch<kWidth>::kAll, kMap.keys);
    const ListedBlocks apart = blocks_apart(p);
    const bool sees_keys = apart.count < apart.all;
    for (int i = 0; i < 2; ++i)
      weights[i] = row_weights(p, sees_keys, branch.m[i], branch.l[i], phi.rest[i], phi.all[i], share[i]);
    if (p.linear_shares != nullptr) store_linear_shares(p, rows, share);
    const bool projects = p.join == kJoinProject;
    Projection<kWidth> projection;
#pragma unroll
    for (uint32_t n = 0; n < kWidth / 16; ++n) {
      float sum[2][4] = {};
      LinearBranch<kWidth>::apply(phi, kMap.state, n, sum);
#pragma unroll
      for (uint32_t half = 0; half < 2; ++half)
#pragma unroll
        for (uint32_t i = 0; i < 4; ++i) {
          const Shares w = weights[i / 2];
          float& o = branch.o[2 * n + half][i];
          const float linear = w.linear == 0 ? 0.0F : w.linear * sum[half][i];
          o = w.sparse == 0 ? 0.0F : w.sparse * o;
          if (projects)
            sum[half][i] = linear;
          else
            o += linear;
        }
      if (projects) projection.keep(n, sum);
    }
    if (projects) {
      if (p.proj != nullptr) projection.add(p, kMap.state, branch.o);
      if (p.proj_bias != nullptr)
#pragma unroll
        for (uint32_t n = 0; n < kWidth / 8; ++n)
#pragma unroll
          for (uint32_t i = 0; i < 4; ++i) {
            const uint32_t channel = n * 8 + 2 * rows.t + i % 2;
            if (channel < static_cast<uint32_t>(p.dim)) branch.o[n][i] += p.proj_bias[channel];
          }
    }
  } else {
    for (int i = 0; i < 2; ++i) weights[i] = row_weights(p, false, branch.m[i], branch.l[i], 0, 0, share[i]);
#pragma unroll
    for (auto& part : branch.o)
#pragma unroll
      for (int i = 0; i < 4; ++i) part[i] = weights[i / 2].sparse == 0 ? 0.0F : part[i] * weights[i / 2].sparse;
    if (p.probe != nullptr) return compare_rows(p, rows, branch.o);
  }
  if (p.coarse != nullptr) add_coarse<kWidth>(p, rows, branch.o);
  switch (store_way(p.out)) {
    case Store::kF32: store_rows<Store::kF32>(p, rows, branch.o); break;
    case Store::kBf16Pairs: store_rows<Store::kBf16Pairs>(p, rows, branch.o); break;
    case Store::kF16Pairs: store_rows<Store::kF16Pairs>(p, rows, branch.o); break;
    case Store::kBf16: store_rows<Store::kBf16>(p, rows, branch.o); break;
    default: store_rows<Store::kF16>(p, rows, branch.o);
  }
}

}  // namespace sla2::cuda
