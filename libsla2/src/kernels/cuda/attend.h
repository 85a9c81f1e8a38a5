// SPDX-License-Identifier: Apache-2.0
// The forward of one query block: H of the linear branch into shared memory, the softmax branch over the listed tiles, both
// joined and stored. The branches run one after the other over the same list; why is in docs/kernels/cuda.md.
#pragma once
#include <type_traits>

#include "kernels/cuda/softmax.h"
#include "kernels/cuda/state.h"

namespace sla2::cuda {

/// The key blocks of this query block: `list` null: all of them.
struct KeptBlocks {
  const int32_t* list;
  int32_t count, all;
  [[nodiscard]] SLA2_DEVICE int32_t at(int32_t i) const { return list == nullptr ? i : list[i]; }
};

SLA2_DEVICE KeptBlocks kept_blocks(const AttendParams& p) {
  if (p.join == kJoinLinear) return {nullptr, 0, p.key_blocks};
  if (p.list == nullptr) return {nullptr, p.key_blocks, p.key_blocks};
  const int64_t row = static_cast<int64_t>(block_y()) * p.query_blocks + block_x();
  return {p.list + row * p.capacity, p.count[row], p.key_blocks};
}

/// Walks the kept blocks, or the others, in ascending order.
struct BlockWalk {
  KeptBlocks kept;
  bool others;
  int32_t place = 0, block = 0;
  SLA2_DEVICE int32_t next() {
    if (!others) return kept.at(place++);
    while (place < kept.count && kept.list[place] == block) ++place, ++block;
    return block++;
  }
};

/// Shared memory at 0: z over the linear branch's blocks, then over all; [W] fp32 each.
template <int kWidth>
struct LinearBranch {
  static constexpr uint32_t kRest = 0, kAll = kWidth * 4;

  /// Which blocks are summed: the fewer of those taken off the totals and those added up.
  struct Plan {
    BlockWalk walk;
    int32_t blocks;
    bool subtract;
  };
  static SLA2_DEVICE Plan plan(const AttendParams& p, const KeptBlocks& kept) {
    const bool everywhere = p.join != kJoinMix;  // the linear branch sees all keys: nothing is taken off
    if (everywhere) return {{kept, false}, 0, true};
    const int32_t rest = kept.all - kept.count;
    if (kept.count <= rest) return {{kept, false}, kept.count, true};
    return {{kept, true}, rest, false};
  }

  static SLA2_DEVICE void sum_z(const AttendParams& p, int64_t key_head, const Plan& plan) {
    const float* const z = p.z + key_head * p.key_blocks * kWidth;
    for (uint32_t c = thread_index(); c < kWidth; c += thread_count()) {
      const float high = p.z_total[key_head * 2 * kWidth + c], low = p.z_total[(key_head * 2 + 1) * kWidth + c];
      TwoSum sum;
      if (plan.subtract) sum.high = high, sum.low = low;
      BlockWalk walk = plan.walk;
      for (int32_t i = 0; i < plan.blocks; ++i) {
        const float x = z[static_cast<int64_t>(walk.next()) * kWidth + c];
        sum.add(plan.subtract ? -x : x);
      }
      shared_store<float>(kRest + c * 4, sum.value());
      shared_store<float>(kAll + c * 4, add_rounded(high, low));
    }
  }

  /// H = totals - Σ, or Σ, as a bf16 tile [W][W] at `target`. Warps take 16 rows at a time until all W have been done.
  static SLA2_DEVICE void make_state(const AttendParams& p, int64_t key_head, uint32_t target) {
    const KeptBlocks kept = kept_blocks(p);
    const Plan plan = LinearBranch::plan(p, kept);
    sum_z(p, key_head, plan);
    const uint32_t warp = thread_index() / 32, warps = thread_count() / 32, g = thread_index() % 32 / 4, t = thread_index() % 4;
    const int64_t at = key_head * p.key_blocks * p.tiles_per_block * static_cast<int64_t>(State<kWidth>::kTile);
    for (uint32_t first = 0; first < kWidth / 16; first += warps) {
      const uint32_t mine = first + warp;
      const bool active = mine < kWidth / 16;
      State<kWidth> state;
      state.clear();
      BlockWalk walk = plan.walk;
      int64_t tile = 0;
      int32_t left = 0;
      const auto next = [&] {
        if (left == 0) tile = static_cast<int64_t>(walk.next()) * p.tiles_per_block, left = p.tiles_per_block;
        --left;
        return tile++;
      };
      state.add(p.stream_at, p.features + at, p.feature_values + at, static_cast<uint32_t>(plan.blocks * p.tiles_per_block),
                active, mine, next);
      if (!active) continue;
      const float* const total = p.state_total + key_head * kWidth * kWidth;
#pragma unroll
      for (uint32_t n = 0; n < kWidth / 8; ++n)
#pragma unroll
        for (uint32_t i = 0; i < 4; i += 2) {
          const uint32_t row = mine * 16 + g + i * 4, column = n * 8 + 2 * t;
          float x = state.sum[n][i], y = state.sum[n][i + 1];
          if (plan.subtract) x = total[row * kWidth + column] - x, y = total[row * kWidth + column + 1] - y;
          shared_store<uint32_t>(target + image_offset(kWidth, kWidth * 2, row, column * 2), pack_bf16(x, y));
        }
    }
  }
};

/// a of O = a·O_s + (1 - a)·O_l, both shares from one exponential so that the smaller keeps its digits.
struct Shares {
  float sparse, linear;
};
SLA2_DEVICE Shares mix_shares(const AttendParams& p, float log_sum) {
  const int64_t row = static_cast<int64_t>(block_y()) * p.query_blocks + block_x(), head = block_y() % p.heads;
  float scale = p.mix_scale, bias = p.mix_bias;
  if (p.mix_source == kMixAffine) scale = p.mix[2 * head], bias = p.mix[2 * head + 1];
  if (p.mix_source == kMixScalar) bias = p.mix[head];
  if (p.mix_source == kMixBlock) bias = p.mix[head * p.query_blocks + block_x()];
  const float logit = p.mix_by_lse != 0 ? scale * (log_sum - p.rest_log_sum[row]) + bias : bias;
  if (logit != logit) return {logit, logit};
  const float away = exp_of(logit < 0 ? logit : -logit), big = 1 / (1 + away), small = away / (1 + away);
  return logit >= 0 ? Shares{big, small} : Shares{small, big};
}

/// What each branch is multiplied by, of one row.
SLA2_DEVICE Shares row_weights(const AttendParams& p, bool has_linear, float m, float l, float rest, float all) {
  constexpr float kFloor = 1e-6F;  // ε of the linear branch, relative to φ(q)·z over all keys
  float inverse = 0;
  if (has_linear) {
    const float floor = kFloor * all, denominator = rest < floor ? floor : rest;
    inverse = denominator == 0 ? 0.0F : 1 / denominator;
  }
  if (p.join == kJoinMix) {
    Shares a = mix_shares(p, (m + log2_of(l)) * kLn2);
    if (inverse == 0) a = {1, 0};
    return {a.sparse / l, a.linear * inverse};
  }
  return {p.join == kJoinLinear || l == 0 ? 0.0F : 1 / l, inverse};
}

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

template <int kWidth, Products kProducts, bool kLinear>
SLA2_DEVICE void attend(const AttendParams& p) {
  constexpr AttendMap kMap = attend_map(kWidth, kProducts, kLinear);
  using Branch = SoftmaxBranch<kWidth, kProducts>;
  const QueryRows rows = query_rows(p);
  const int64_t key_head = rows.head / p.heads_per_key;
  const KeptBlocks kept = kept_blocks(p);

  if constexpr (kLinear) {
    LinearBranch<kWidth>::make_state(p, key_head, kMap.state);
    sync_threads();
  }

  Branch branch;
  branch.clear();
  float shift[2];
  {
    Queries<kWidth, kProducts> q;
    q.load(p, rows, kMap.keys);
    for (int i = 0; i < 2; ++i) shift[i] = q.shift[i];
    const int64_t tiles = static_cast<int64_t>(p.key_blocks) * p.tiles_per_block;
    const unsigned char* const keys = p.keys + key_head * tiles * Branch::kKeyTile;
    const unsigned char* const values = p.values + key_head * tiles * Branch::kValueTile;
    const int32_t steps = kept.count * p.tiles_per_block;
    const auto tile_at = [&](int32_t step) {
      return static_cast<int64_t>(kept.at(step / p.tiles_per_block)) * p.tiles_per_block + step % p.tiles_per_block;
    };
    if (steps > 0) copy_stretch(kMap.keys, keys + tile_at(0) * Branch::kKeyTile, Branch::kKeyTile);
    copy_async_commit();
    for (int32_t step = 0; step < steps; ++step) {
      const int64_t tile = tile_at(step), first_key = tile * kTileKeys;
      copy_async_wait<0>();
      sync_threads();  // the key tile is there for all; nobody reads the value tile any more
      copy_stretch(kMap.values, values + tile * Branch::kValueTile, Branch::kValueTile);
      copy_async_commit();
      float factor[2];
      const float block_scale = q.kInt8 ? p.scale * p.key_scale[key_head * p.key_blocks + tile / p.tiles_per_block] : p.scale;
      for (int i = 0; i < 2; ++i) factor[i] = block_scale * q.scale[i];
      branch.score(q, kMap.keys, factor);
      branch.mask(p.key_tokens - first_key, p.key_bias == nullptr ? nullptr : p.key_bias + first_key);
      branch.weigh();
      copy_async_wait<0>();
      sync_threads();  // and the other way round
      if (step + 1 < steps) copy_stretch(kMap.keys, keys + tile_at(step + 1) * Branch::kKeyTile, Branch::kKeyTile);
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
  if constexpr (kLinear) {
    sync_threads();  // nobody reads tiles any more
    QueryFeatures<kWidth> phi;
    phi.load(p, rows, LinearBranch<kWidth>::kRest, LinearBranch<kWidth>::kAll, kMap.keys);
    for (int i = 0; i < 2; ++i) weights[i] = row_weights(p, true, branch.m[i], branch.l[i], phi.rest[i], phi.all[i]);
#pragma unroll
    for (uint32_t n = 0; n < kWidth / 16; ++n) {
      float sum[2][4] = {};
#pragma unroll
      for (uint32_t step = 0; step < kWidth / 16; ++step) {
        uint32_t b[4];
        load_columns_transposed<kWidth, kWidth * 2>(kMap.state, step * 16, n * 2, b);
        multiply_bf16(sum[0], phi.a[step], b[0], b[1]);
        multiply_bf16(sum[1], phi.a[step], b[2], b[3]);
      }
#pragma unroll
      for (uint32_t half = 0; half < 2; ++half)
#pragma unroll
        for (uint32_t i = 0; i < 4; ++i) {
          const Shares w = weights[i / 2];
          float& o = branch.o[2 * n + half][i];
          o = (w.sparse == 0 ? 0.0F : w.sparse * o) + (w.linear == 0 ? 0.0F : w.linear * sum[half][i]);
        }
    }
  } else {
    for (int i = 0; i < 2; ++i) weights[i] = row_weights(p, false, branch.m[i], branch.l[i], 0, 0);
#pragma unroll
    for (auto& part : branch.o)
#pragma unroll
      for (int i = 0; i < 4; ++i) part[i] = weights[i / 2].sparse == 0 ? 0.0F : part[i] * weights[i / 2].sparse;
  }
  switch (store_way(p.out)) {
    case Store::kF32: store_rows<Store::kF32>(p, rows, branch.o); break;
    case Store::kBf16Pairs: store_rows<Store::kBf16Pairs>(p, rows, branch.o); break;
    case Store::kF16Pairs: store_rows<Store::kF16Pairs>(p, rows, branch.o); break;
    case Store::kBf16: store_rows<Store::kBf16>(p, rows, branch.o); break;
    default: store_rows<Store::kF16>(p, rows, branch.o);
  }
}

}  // namespace sla2::cuda
