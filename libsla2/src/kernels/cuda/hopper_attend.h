// SPDX-License-Identifier: Apache-2.0
// The forward on Hopper: as attend.h, with products of warpgroups. One thread copies tiles into a ring; each of two warpgroups
// owns 64 queries, and 64 channels of φ while H is made. Fragments are those of mma.sync, so that queries, softmax, mixing and
// stores are the other family's. A block of threads stays and takes one query block after another; the ring does not notice where
// one ends, so that the next one's first tiles arrive while the last one is being joined and stored.
#pragma once
#include "kernels/cuda/attend.h"
#include "kernels/cuda/hopper_ring.h"

namespace sla2::cuda {

template <Products kProducts, bool kLinear>
struct Hopper {
  static constexpr HopperMap kMap = hopper_map(kLinear);
  static constexpr bool kFp8 = kProducts == Products::kInt8Fp8;
  static constexpr uint32_t kKeyTile = kTileKeys * kHopperWidth * key_bytes(kProducts);
  static constexpr uint32_t kValueTile = kTileKeys * kHopperWidth * value_bytes(kProducts);
  using Branch = SoftmaxBranch<kHopperWidth, kProducts>;
  using Linear = LinearBranch<kHopperWidth>;
  using Walk = TileWalk<false>;
  using Sum = std::conditional_t<kProducts == Products::kBf16, float, int32_t>;

  /// The copying thread: the tiles of H, then those of the softmax.
  static SLA2_DEVICE void produce(const AttendParams& p, const TurnPlace& place, Ring& ring) {
    const int64_t key_head = place.of_head / static_cast<uint32_t>(p.heads_per_key);
    const int64_t first = key_head * p.tiles;
    if constexpr (kLinear) {
      auto plan = Linear::plan(p, place);
      for (int32_t i = 0; i < plan.blocks; ++i) {
        int64_t at = (first + static_cast<int64_t>(plan.walk.next()) * p.tiles_per_block) * kHopperTile;
        for (int32_t tile = 0; tile < p.tiles_per_block; ++tile, at += kHopperTile)
          ring.fill(p.features + at, kHopperTile, p.feature_values + at, kHopperTile);
      }
    }
    const Walk walk(p, key_head, place);
    for (int32_t step = 0; step < walk.steps(); ++step) {
      const int64_t at = first + walk.tile(step);
      ring.fill(p.keys + at * kKeyTile, kKeyTile, p.values + at * kValueTile, kValueTile);
    }
  }

  /// sum += φᵀ·V of a stage, under way.
  static SLA2_DEVICE void add_tile(float (&sum)[kHopperWidth / 8][4], const Ring& ring, uint32_t panel) {
    const uint32_t phi = shared_address(ring.tile(0) + panel * kHopperPanel), v = shared_address(ring.tile(1));
    group_fence();
#pragma unroll
    for (uint32_t k = 0; k < kTileKeys / 16; ++k)
      group_state(sum, group_operand(phi + k * kHopperSixteen, kHopperPanel, kHopperEight, Swizzle::k128),
                  group_operand(v + k * kHopperSixteen, kHopperPanel, kHopperEight, Swizzle::k128), true);
    group_commit();
  }

  /// H in bf16 at kMap.state; a warpgroup makes the rows of 64 channels of φ.
  static SLA2_DEVICE void make_state(const AttendParams& p, int64_t key_head, const TurnPlace& place, Ring& ring) {
    const auto plan = Linear::plan(p, place);
    Linear::sum_z(p, key_head, plan, place);
    const uint32_t warp = thread_index() / 32, g = thread_index() % 32 / 4, t = thread_index() % 4;
    float sum[kHopperWidth / 8][4];
#pragma unroll
    for (auto& part : sum)
#pragma unroll
      for (float& x : part) x = 0;
    const int32_t steps = plan.blocks * p.tiles_per_block;
    if (steps > 0) {  // the first outside the loop: no branch may stand between products that are under way
      ring.wait();
      add_tile(sum, ring, warp / 4);
      for (int32_t i = 1; i < steps; ++i) {
        const Ring last = ring;
        ring.next();
        ring.wait();
        add_tile(sum, ring, warp / 4);
        group_wait<1>();  // for the products before these
        last.release();
      }
      group_wait<0>();
      ring.release();
      ring.next();
      group_hold(sum);
    }
    const float* const total = p.state_total + key_head * kHopperWidth * kHopperWidth;
#pragma unroll
    for (uint32_t n = 0; n < kHopperWidth / 8; ++n)
#pragma unroll
      for (uint32_t i = 0; i < 4; i += 2) {
        const uint32_t row = warp * 16 + g + i * 4, column = n * 8 + 2 * t;
        float x = sum[n][i], y = sum[n][i + 1];
        if (plan.subtract) x = total[row * kHopperWidth + column] - x, y = total[row * kHopperWidth + column + 1] - y;
        shared_store<uint32_t>(kMap.state + image_offset(kHopperWidth, kHopperWidth * 2, row, column * 2), pack_bf16(x, y));
      }
    show_to_engines();
  }

  /// sums = q · kᵀ of the key tile, under way.
  static SLA2_DEVICE void start_scores(Sum (&sums)[kTileKeys / 8][4], const Queries<kHopperWidth, kProducts>& q, uint32_t tile) {
    const uint32_t keys = shared_address(tile);
    group_fence();
#pragma unroll
    for (uint32_t k = 0; k < q.kSteps; ++k)  // 32 bytes of a panel's rows each
      group_scores(sums, q.a[k], group_operand(keys + k / 4 * kHopperPanel + k % 4 * 32, 0, kHopperEight, Swizzle::k128), k > 0);
    group_commit();
  }

  /// branch.s = weights of the step's keys. @return in factor: what o has to shrink by
  static SLA2_DEVICE void weigh(const AttendParams& p, Branch& branch, const Sum (&sums)[kTileKeys / 8][4],
                                const Queries<kHopperWidth, kProducts>& q, const Walk& walk, int32_t step, float (&factor)[2]) {
    const float of_keys = q.kInt8 ? p.scale * walk.key_scale(step, 0) : p.scale;
    const float of_rows[2] = {of_keys * q.scale[0], of_keys * q.scale[1]};
#pragma unroll
    for (int n = 0; n < kTileKeys / 8; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) branch.s[n][i] = static_cast<float>(sums[n][i]) * of_rows[i / 2];
    branch.mask(walk.columns(step), p.key_bias == nullptr ? nullptr : p.key_bias + walk.tile(step) * kTileKeys);
    float origin[2];
    branch.raise(factor, origin);
    branch.exponentiate(origin);
  }

  /// Weights as operands: rounded to bf16, l sums the rounded ones; or to e4m3, l sums what is not rounded.
  struct Weights {
    static constexpr uint32_t kSteps = kTileKeys / (kFp8 ? 32 : 16);
    uint32_t a[kSteps][4];
    SLA2_DEVICE explicit Weights(Branch& branch) {
#pragma unroll
      for (uint32_t k = 0; k < kSteps; ++k)
#pragma unroll
        for (uint32_t i = 0; i < 4; ++i) {
          const uint32_t row = i % 2 * 2;
          if constexpr (kFp8) {
            const auto &low = branch.s[4 * k + i / 2 * 2], &high = branch.s[4 * k + i / 2 * 2 + 1];
            a[k][i] = pack_e4m3(low[row], low[row + 1]) | pack_e4m3(high[row], high[row + 1]) << 16U;
            branch.l[i % 2] += (low[row] + low[row + 1]) + (high[row] + high[row + 1]);
          } else {
            const auto& part = branch.s[2 * k + i / 2];
            a[k][i] = pack_bf16(part[row], part[row + 1]);
            branch.l[i % 2] += from_bf16(a[k][i] & 0xFFFFU) + bits_to_float(a[k][i] & 0xFFFF0000U);
          }
        }
    }
  };

  /// Σ weights · v of a tile, under way: bf16 products go to O itself, the short sums of e4m3 ones are added to it in fp32.
  struct Values {
    float (&o)[kHopperWidth / 8][4];
    float part[kFp8 ? kHopperWidth / 8 : 1][4];
    SLA2_DEVICE explicit Values(Branch& branch) : o(branch.o) {}
    SLA2_DEVICE void start(const Weights& weights, uint32_t tile) {
      const uint32_t values = shared_address(tile);
      group_fence();
#pragma unroll
      for (uint32_t k = 0; k < Weights::kSteps; ++k) {
        if constexpr (kFp8)
          group_values8(part, weights.a[k], group_operand(values + k * 32, 0, 8 * kTileKeys, Swizzle::k64), k > 0);
        else
          group_values(o, weights.a[k], group_operand(values + k * kHopperSixteen, kHopperPanel, kHopperEight, Swizzle::k128),
                       true);
      }
      group_commit();
    }
    /// All products have been waited for.
    SLA2_DEVICE void finish() {
      if constexpr (kFp8) {
        group_hold(part);
#pragma unroll
        for (int n = 0; n < kHopperWidth / 8; ++n)
#pragma unroll
          for (int i = 0; i < 4; ++i) o[n][i] += part[n][i];
      } else {
        group_hold(o);
      }
    }
  };

  /// The softmax branch: the scores of a tile are multiplied before the values of the one before, whose products then run under
  /// this one's softmax.
  static SLA2_DEVICE void walk_keys(const AttendParams& p, Branch& branch, const Queries<kHopperWidth, kProducts>& q,
                                    const Walk& walk, Ring& ring) {
    const int32_t steps = walk.steps();
    if (steps == 0) return;
    Sum sums[kTileKeys / 8][4];
    float factor[2];
    ring.wait();
    start_scores(sums, q, ring.tile(0));
    group_wait<0>();
    group_hold(sums);
    weigh(p, branch, sums, q, walk, 0, factor);
    Values values(branch);
    group_hold(branch.o);
    for (int32_t step = 1; step < steps; ++step) {
      const Ring last = ring;
      ring.next();
      ring.wait();
      const Weights weights(branch);
      start_scores(sums, q, ring.tile(0));
      values.start(weights, last.tile(1));
      group_wait<1>();
      group_hold(sums);
      weigh(p, branch, sums, q, walk, step, factor);
      group_wait<0>();
      values.finish();
      last.release();
      branch.shrink(factor);
    }
    const Weights weights(branch);
    values.start(weights, ring.tile(1));
    group_wait<0>();
    values.finish();
    ring.release();
    ring.next();
  }

  /// Both branches joined: branch.o becomes the output.
  static SLA2_DEVICE void join(const AttendParams& p, const QueryRows& rows, const TurnPlace& place, Branch& branch) {
    Shares weights[2];
    float share[2];
    if constexpr (kLinear) {
      QueryFeatures<kHopperWidth> phi;
      phi.load(p, rows, Linear::kRest, Linear::kAll, kMap.queries);
      const ListedBlocks apart = blocks_apart(p, place);
      const bool sees_keys = apart.count < apart.all;
      for (int i = 0; i < 2; ++i)
        weights[i] = row_weights(p, sees_keys, branch.m[i], branch.l[i], phi.rest[i], phi.all[i], share[i], place);
      if (p.linear_shares != nullptr) store_linear_shares(p, rows, share, place);
      float sum[kHopperWidth / 8][4];
      const uint32_t state = shared_address(kMap.state);
      group_fence();
#pragma unroll
      for (uint32_t k = 0; k < kHopperWidth / 16; ++k)
        group_values(sum, phi.a[k], group_operand(state + k * kHopperSixteen, kHopperWidth * 128, kHopperEight, Swizzle::k128),
                     k > 0);
      group_commit();
      group_wait<0>();
      group_hold(sum);
#pragma unroll
      for (uint32_t n = 0; n < kHopperWidth / 8; ++n)
#pragma unroll
        for (uint32_t i = 0; i < 4; ++i) {
          const Shares w = weights[i / 2];
          branch.o[n][i] = (w.sparse == 0 ? 0.0F : w.sparse * branch.o[n][i]) + (w.linear == 0 ? 0.0F : w.linear * sum[n][i]);
        }
    } else {
      for (int i = 0; i < 2; ++i) weights[i] = row_weights(p, false, branch.m[i], branch.l[i], 0, 0, share[i], place);
#pragma unroll
      for (auto& part : branch.o)
#pragma unroll
        for (int i = 0; i < 4; ++i) part[i] = weights[i / 2].sparse == 0 ? 0.0F : part[i] * weights[i / 2].sparse;
    }
  }

  /// The warpgroups that multiply. H, the φ-sums and the queries' stretch are still the last query block's: who overwrites them
  /// waits until both have done with it. That H is whole before anybody multiplies it, the meeting in Queries::load sees to.
  static SLA2_DEVICE void consume(const AttendParams& p, const TurnPlace& place, Ring& ring) {
    QueryRows rows = query_rows(p, place);
    rows.consumers = kHopperConsumers;
    const int64_t key_head = place.of_head / static_cast<uint32_t>(p.heads_per_key);
    if constexpr (kLinear) {
      rows.sync();
      make_state(p, key_head, place, ring);
    }
    Branch branch;
    branch.clear();
    float shift[2];
    {
      Queries<kHopperWidth, kProducts> q;
      q.load(p, rows, kMap.queries);
      for (int i = 0; i < 2; ++i) shift[i] = q.shift[i];
      walk_keys(p, branch, q, Walk(p, key_head, place), ring);
    }
    branch.finish(kFp8 ? p.value_scale + key_head * kHopperWidth : nullptr);
    if (p.lse != nullptr && rows.t == 0)
      for (int i = 0; i < 2; ++i)
        if (rows.has(i))
          p.lse[rows.head * p.query_tokens + rows.token(i)] = (shift[i] + branch.m[i] + log2_of(branch.l[i])) * kLn2;
    join(p, rows, place, branch);
    if constexpr (!kLinear)
      if (p.probe != nullptr) return compare_rows(p, rows, branch.o, place);
    if (p.coarse != nullptr) add_coarse<kHopperWidth>(p, rows, branch.o, place);
    switch (store_way(p.out)) {
      case Store::kF32: store_rows<Store::kF32>(p, rows, branch.o); break;
      case Store::kBf16Pairs: store_rows<Store::kBf16Pairs>(p, rows, branch.o); break;
      case Store::kF16Pairs: store_rows<Store::kF16Pairs>(p, rows, branch.o); break;
      case Store::kBf16: store_rows<Store::kBf16>(p, rows, branch.o); break;
      default: store_rows<Store::kF16>(p, rows, branch.o);
    }
  }

  /// Turns are query blocks (or probes) head by head, so that blocks of threads at work together read the same keys.
  static SLA2_DEVICE TurnPlace place_of(const AttendParams& p, uint32_t turn) {
    const auto blocks = static_cast<uint32_t>(p.probes == 0 ? p.query_blocks : p.probes);
    return {turn % blocks, turn / blocks};
  }

  static SLA2_DEVICE void attend(const AttendParams& p) {
    Ring ring{kMap.arrivals, kMap.ring};
    if (thread_index() == 0) ring.make();
    sync_threads();
    if (thread_index() >= kHopperConsumers) {
      give_registers<kHopperGiven>();
      if (thread_index() == kHopperConsumers)
        for (uint32_t turn = block_x(); turn < p.turns; turn += grid_x()) produce(p, place_of(p, turn), ring);
    } else {
      take_registers<kHopperTaken>();
      for (uint32_t turn = block_x(); turn < p.turns; turn += grid_x()) consume(p, place_of(p, turn), ring);
    }
  }
};

}  // namespace sla2::cuda
