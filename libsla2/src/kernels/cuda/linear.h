// SPDX-License-Identifier: Apache-2.0
// The linear branch of one query block: H and z over the blocks it sees, φ(Q)·H, and what of the two branches becomes the output.
#pragma once
#include "kernels/cuda/queries.h"
#include "kernels/cuda/state.h"

namespace sla2::cuda {

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
  template <typename Place = GridPlace>
  static SLA2_DEVICE Plan plan(const AttendParams& p, const Place& at = {}) {
    if (p.soft_linear != 0) return {{{nullptr, p.key_blocks, p.key_blocks}, false}, p.key_blocks, false};
    const ListedBlocks apart = blocks_apart(p, at);
    const int32_t rest = apart.all - apart.count;
    if (apart.count <= rest) return {{apart, false}, apart.count, true};
    return {{apart, true}, rest, false};
  }

  /// By which a block enters where it enters at all.
  template <typename Place = GridPlace>
  static SLA2_DEVICE float linear_weight(const AttendParams& p, int32_t block, const Place& at = {}) {
    return p.soft_linear == 0 ? 1.0F : 1 - p.soft[query_block_row(p, at) * p.key_blocks + block];
  }

  template <typename Place = GridPlace>
  static SLA2_DEVICE void sum_z(const AttendParams& p, int64_t key_head, const Plan& plan, const Place& at = {}) {
    const float* const z = p.z + key_head * p.key_blocks * kWidth;
    for (uint32_t c = thread_index(); c < kWidth; c += thread_count()) {
      const float high = p.z_total[key_head * 2 * kWidth + c], low = p.z_total[(key_head * 2 + 1) * kWidth + c];
      TwoSum sum;
      if (plan.subtract) sum.high = high, sum.low = low;
      BlockWalk walk = plan.walk;
      for (int32_t i = 0; i < plan.blocks; ++i) {
        const int32_t block = walk.next();
        const float x = z[static_cast<int64_t>(block) * kWidth + c] * linear_weight(p, block, at);
        sum.add(plan.subtract ? -x : x);
      }
      shared_store<float>(kRest + c * 4, sum.value());
      shared_store<float>(kAll + c * 4, add_rounded(high, low));
    }
  }

  /// The walk's keys, a stage of 32 at a time; small blocks share a stage.
  template <bool kSoft>
  struct Stages {
    const AttendParams& p;
    typename State<kWidth>::Source source;
    BlockWalk walk;
    int32_t blocks;  ///< that have not been begun
    int64_t from = 0;
    int32_t left = 0;                                                     ///< keys of the current block
    float weight = 1;                                                     ///< its
    float weights[kStreamKeys / 16] = {}, before[kStreamKeys / 16] = {};  ///< of each 16 keys: the last stage's, that before

    SLA2_DEVICE void pass() {
      for (int half = 0; half < kStreamKeys / 16; ++half) before[half] = weights[half];
    }

    SLA2_DEVICE void begin() {
      const int32_t block = walk.next();
      from = static_cast<int64_t>(block) * p.block_k, left = p.block_k;
      if constexpr (kSoft) weight = linear_weight(p, block);
    }
    SLA2_DEVICE void operator()(uint32_t stage) {
      if (p.block_k < kStreamKeys) {  // 16
#pragma unroll
        for (uint32_t half = 0; half < kStreamKeys / 16; ++half) {
          if (blocks > 0) begin(), source.copy(stage, half * 16, from, 16);
          if (blocks <= 0) source.clear(stage, half * 16, 16);
          if constexpr (kSoft) weights[half] = weight;
          --blocks;
        }
        return;
      }
      if (left == 0) begin();
      source.copy(stage, 0, from, kStreamKeys);
      from += kStreamKeys, left -= kStreamKeys;
      if constexpr (kSoft) weights[0] = weights[1] = weight;
    }
  };

  /// H = totals - Σ, or Σ, as a bf16 tile [W][W] at `target`. kSoft: there may be a soft mask. Warps take 16 rows at a time until
  /// all W have been done.
  template <bool kSoft>
  static SLA2_DEVICE void make_state(const AttendParams& p, int64_t key_head, uint32_t target) {
    const Plan plan = LinearBranch::plan(p);
    sum_z(p, key_head, plan);
    const uint32_t warp = thread_index() / 32, warps = thread_count() / 32, g = thread_index() % 32 / 4, t = thread_index() % 4;
    const int64_t at = key_head * p.tiles * static_cast<int64_t>(State<kWidth>::kTile);
    const auto steps = static_cast<uint32_t>((static_cast<int64_t>(plan.blocks) * p.block_k + kStreamKeys - 1) / kStreamKeys);
    for (uint32_t first = 0; first < kWidth / 16; first += warps) {
      const uint32_t mine = first + warp;
      const bool active = mine < kWidth / 16;
      State<kWidth> state;
      state.clear();
      const typename State<kWidth>::Source source{p.features + at, p.feature_values + at};
      if (kSoft && p.soft_linear != 0) {
        Stages<kSoft> fill{p, source, plan.walk, plan.blocks};
        state.template add<kSoft>(p.stream_at, steps, active, mine, fill);
      } else {
        Stages<false> fill{p, source, plan.walk, plan.blocks};
        state.add(p.stream_at, steps, active, mine, fill);
      }
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

  /// φ(Q)·H of the 16 columns from n · 16 on.
  static SLA2_DEVICE void apply(const QueryFeatures<kWidth>& phi, uint32_t state, uint32_t n, float (&sum)[2][4]) {
#pragma unroll
    for (uint32_t step = 0; step < kWidth / 16; ++step) {
      uint32_t b[4];
      load_columns_transposed<kWidth, kWidth * 2>(state, step * 16, n * 2, b);
      multiply_bf16(sum[0], phi.a[step], b[0], b[1]);
      multiply_bf16(sum[1], phi.a[step], b[2], b[3]);
    }
  }
};

/// a of O = a·O_s + (1 - a)·O_l, both shares from one exponential so that the smaller keeps its digits.
struct Shares {
  float sparse, linear;
};
template <typename Place = GridPlace>
SLA2_DEVICE Shares mix_shares(const AttendParams& p, float log_sum, const Place& at = {}) {
  const int64_t row = query_block_row(p, at), head = at.head() % p.heads;
  float scale = p.mix_scale, bias = p.mix_bias;
  if (p.mix_source == kMixAffine) scale = p.mix[2 * head], bias = p.mix[2 * head + 1];
  if (p.mix_source == kMixScalar) bias = p.mix[head];
  if (p.mix_source == kMixBlock) bias = p.mix[head * p.query_blocks + query_block(p, at)];
  const float logit = p.mix_by_lse != 0 ? scale * (log_sum - p.rest_log_sum[row]) + bias : bias;
  if (logit != logit) return {logit, logit};
  const float away = exp_of(logit < 0 ? logit : -logit), big = 1 / (1 + away), small = away / (1 + away);
  return logit >= 0 ? Shares{big, small} : Shares{small, big};
}

/// What each branch is multiplied by, of one row. linear_share: 1 - a.
template <typename Place = GridPlace>
SLA2_DEVICE Shares row_weights(const AttendParams& p, bool has_linear, float m, float l, float rest, float all,
                               float& linear_share, const Place& at = {}) {
  constexpr float kFloor = 1e-6F;  // ε of the linear branch, relative to φ(q)·z over all keys
  float inverse = 0;
  linear_share = 0;
  if (has_linear) {
    const float floor = kFloor * all, denominator = rest < floor ? floor : rest;
    inverse = denominator == 0 ? 0.0F : 1 / denominator;
  }
  if (p.join == kJoinMix) {
    Shares a = mix_shares(p, (m + log2_of(l)) * kLn2, at);
    if (inverse == 0) a = {1, 0};
    linear_share = a.linear;
    return {a.sparse / l, a.linear * inverse};
  }
  return {p.join == kJoinLinear || l == 0 ? 0.0F : 1 / l, inverse};
}

/// O_l · projᵀ on top of o. Both factors are split into two bf16 numbers, of which three products remain: fp32 but for 2^-16.
template <int kWidth>
struct Projection {
  uint32_t high[kWidth / 16][4], low[kWidth / 16][4];

  /// 16 columns of O_l, as an accumulator has them: it is the left-hand fragment.
  SLA2_DEVICE void keep(uint32_t n, const float (&columns)[2][4]) {
#pragma unroll
    for (uint32_t i = 0; i < 4; ++i) {
      const float x = columns[i / 2][i % 2 * 2], y = columns[i / 2][i % 2 * 2 + 1];
      high[n][i] = pack_bf16(x, y);
      low[n][i] = pack_bf16(x - from_bf16(high[n][i] & 0xFFFFU), y - bits_to_float(high[n][i] & 0xFFFF0000U));
    }
  }

  /// The image of proj's leading or remaining bf16 digits, [output channel][channel]; all threads.
  static SLA2_DEVICE void place(const AttendParams& p, uint32_t image, bool leading) {
    for (uint32_t i = thread_index(); i < kWidth * kWidth / 2; i += thread_count()) {
      const uint32_t row = i / (kWidth / 2), column = i % (kWidth / 2) * 2;
      const auto dim = static_cast<uint32_t>(p.dim);
      const bool inside = row < dim && column < dim;
      const float x = inside ? p.proj[row * dim + column] : 0.0F, y = inside ? p.proj[row * dim + column + 1] : 0.0F;
      uint32_t bits = pack_bf16(x, y);
      if (!leading) bits = pack_bf16(x - from_bf16(bits & 0xFFFFU), y - bits_to_float(bits & 0xFFFF0000U));
      shared_store<uint32_t>(image + image_offset(kWidth, kWidth * 2, row, column * 2), bits);
    }
  }

  SLA2_DEVICE void multiply(uint32_t image, bool leading, float (&o)[kWidth / 8][4]) const {
#pragma unroll
    for (uint32_t n = 0; n < kWidth / 16; ++n)
#pragma unroll
      for (uint32_t step = 0; step < kWidth / 16; ++step) {
        uint32_t b[4];
        load_columns<kWidth, kWidth * 2>(image, n * 16, step * 2, b);
        multiply_bf16(o[2 * n], high[step], b[0], b[1]);
        multiply_bf16(o[2 * n + 1], high[step], b[2], b[3]);
        if (!leading) continue;
        multiply_bf16(o[2 * n], low[step], b[0], b[1]);
        multiply_bf16(o[2 * n + 1], low[step], b[2], b[3]);
      }
  }

  /// `image`: where H stood; nobody reads it any more.
  SLA2_DEVICE void add(const AttendParams& p, uint32_t image, float (&o)[kWidth / 8][4]) const {
#pragma unroll 1
    for (int part = 0; part < 2; ++part) {
      sync_threads();
      place(p, image, part == 0);
      sync_threads();
      multiply(image, part == 0, o);
    }
  }
};

}  // namespace sla2::cuda
