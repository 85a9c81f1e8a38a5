// SPDX-License-Identifier: Apache-2.0
// The linear branch's gradient seen from a query block: H again, O_l's gradient through φ(Q) and through the denominator, a, and
// what the keys will ask for: tiles of G = (1 - a)·φ(Q) / denominator and dZ.
//
// dφ(Q)_c is dO·H_c - D·z_c, which nearly cancels where values differ little from each other. So H - z·rᵀ is what is rounded to
// bf16, r the mean row of H: dO·r drops out of every row that is not floored.
#pragma once
#include "kernels/cuda/backward_fragments.h"
#include "kernels/cuda/backward_walk.h"

namespace sla2::cuda {

inline constexpr float kBackwardFloor = 1e-6F;  // ε of row_weights (attend.h)

/// Shared memory: z of the branch and of all keys | r | a line per warp | H, and before it the stages of its walk.
template <int kWidth>
struct LinearMap {
  static constexpr uint32_t kMean = 2 * kWidth * 4, kLines = kMean + kWidth * 4;
  static constexpr uint32_t kState = (kLines + kMaxThreads / 32 * kWidth * 4 + 1023) / 1024 * 1024;
  static constexpr uint32_t kStateBytes = kWidth * kWidth * 2;
  static constexpr uint32_t kBytes = kState + (kStateBytes > stream_bytes(kWidth) ? kStateBytes : stream_bytes(kWidth));
};

/// Sum over the warps' lines, in their order.
template <int kWidth>
SLA2_DEVICE float sum_lines(uint32_t column) {
  float sum = 0;
  for (uint32_t w = 0; w < thread_count() / 32; ++w)
    sum += shared_load<float>(LinearMap<kWidth>::kLines + (w * kWidth + column) * 4);
  return sum;
}

/// The warp's column sums of x into its line.
template <int kWidth>
SLA2_DEVICE void write_line(const float (&x)[kWidth / 8][4], const float (&factor)[2]) {
  const uint32_t warp = thread_index() / 32, g = thread_index() % 32 / 4, t = thread_index() % 4;
#pragma unroll
  for (uint32_t n = 0; n < kWidth / 8; ++n)
#pragma unroll
    for (uint32_t i = 0; i < 2; ++i) {
      float sum = (factor[0] == 0 ? 0.0F : x[n][i] * factor[0]) + (factor[1] == 0 ? 0.0F : x[n][i + 2] * factor[1]);
      for (uint32_t mask = 4; mask < 32; mask *= 2) sum += shuffle_xor(sum, mask);
      if (g == 0) shared_store<float>(LinearMap<kWidth>::kLines + (warp * kWidth + n * 8 + 2 * t + i) * 4, sum);
    }
}

/// H - z·rᵀ of the query block as a bf16 image, r and both z beside it. W / 16 warps or more.
template <int kWidth>
SLA2_DEVICE void centred_state(const AttendParams& p, int64_t key_head) {
  using Map = LinearMap<kWidth>;
  using Branch = LinearBranch<kWidth>;
  const uint32_t warp = thread_index() / 32, g = thread_index() % 32 / 4, t = thread_index() % 4;
  const bool active = warp < kWidth / 16;
  const typename Branch::Plan plan = Branch::plan(p);
  Branch::sum_z(p, key_head, plan);
  State<kWidth> state;
  state.clear();
  {
    const int64_t at = key_head * p.tiles * static_cast<int64_t>(State<kWidth>::kTile);
    typename Branch::template Stages<false> fill{p, {p.features + at, p.feature_values + at}, plan.walk, plan.blocks};
    state.add(Map::kState, static_cast<uint32_t>(plan.blocks) * (static_cast<uint32_t>(p.block_k) / kStreamKeys), active, warp,
              fill);
  }
  if (plan.subtract && active) {
    const float* const total = p.state_total + (key_head * kWidth + warp * 16) * kWidth;
#pragma unroll
    for (uint32_t n = 0; n < kWidth / 8; ++n)
#pragma unroll
      for (uint32_t i = 0; i < 4; ++i)
        state.sum[n][i] = total[(g + i / 2 * 8) * kWidth + n * 8 + 2 * t + i % 2] - state.sum[n][i];
  }
  const float one = active ? 1.0F : 0.0F;
  write_line<kWidth>(state.sum, {one, one});
  sync_threads();
  float keys = 0;  // Σ z: each φ sums to one
  for (uint32_t c = 0; c < kWidth; ++c) keys += shared_load<float>(Branch::kRest + c * 4);
  for (uint32_t c = thread_index(); c < kWidth; c += thread_count())
    shared_store<float>(Map::kMean + c * 4, keys > 0 ? sum_lines<kWidth>(c) / keys : 0.0F);
  sync_threads();
  if (active) {
    const float z[2] = {shared_load<float>(Branch::kRest + (warp * 16 + g) * 4),
                        shared_load<float>(Branch::kRest + (warp * 16 + g + 8) * 4)};
#pragma unroll
    for (uint32_t n = 0; n < kWidth / 8; ++n)
#pragma unroll
      for (uint32_t i = 0; i < 4; i += 2) {
        const uint32_t row = warp * 16 + g + i * 4, column = n * 8 + 2 * t;
        const float x = state.sum[n][i] - z[i / 2] * shared_load<float>(Map::kMean + column * 4),
                    y = state.sum[n][i + 1] - z[i / 2] * shared_load<float>(Map::kMean + column * 4 + 4);
        shared_store<uint32_t>(Map::kState + image_offset(kWidth, kWidth * 2, row, column * 2), pack_bf16(x, y));
      }
  }
  sync_threads();
}

/// A pair of numbers summed over the block's rows, a number of each lane's two rows in; thread 0 writes it.
template <int kWidth>
SLA2_DEVICE void sum_rows(const float (&first)[2], const float (&second)[2], float* out) {
  const uint32_t lane = thread_index() % 32, warp = thread_index() / 32;
  const bool counts = lane % 4 == 0;
  const float x = warp_sum(counts ? first[0] + first[1] : 0), y = warp_sum(counts ? second[0] + second[1] : 0);
  sync_threads();
  if (lane == 0) {
    shared_store<float>(LinearMap<kWidth>::kLines + warp * 8, x);
    shared_store<float>(LinearMap<kWidth>::kLines + warp * 8 + 4, y);
  }
  sync_threads();
  if (thread_index() != 0) return;
  float sum[2] = {0, 0};
  for (uint32_t w = 0; w < thread_count() / 32; ++w)
    for (uint32_t i = 0; i < 2; ++i) sum[i] += shared_load<float>(LinearMap<kWidth>::kLines + w * 8 + i * 4);
  out[0] = sum[0], out[1] = sum[1];
}

template <int kWidth>
SLA2_DEVICE void linear_queries(const LinearParams& p) {
  using Map = LinearMap<kWidth>;
  using Branch = LinearBranch<kWidth>;
  const QueryRows rows = own_rows(p.a);
  const int64_t key_head = rows.head / p.a.heads_per_key, all = p.query_tiles * int64_t{64};
  const int64_t block_row = static_cast<int64_t>(block_x()) * p.a.block_q + kWarpRows * rows.warp,
                row = rows.head * all + block_row;
  const int64_t place = rows.head * p.a.query_blocks + block_x();
  const bool softmax = p.rows.top != nullptr;
  // Warps without queries also write: behind the last block they clear what is left of its tile.
  const bool writes = kWarpRows * static_cast<int32_t>(rows.warp) < p.a.block_q ||
                      (static_cast<int32_t>(block_x()) + 1 == p.a.query_blocks && block_row < all);
  centred_state<kWidth>(p.a, key_head);

  float phi[kWidth / 8][4];
  float rest[2] = {0, 0}, all_z[2] = {0, 0}, inverse[2], share[2], sparse[2], difference[2] = {0, 0};
  bool floored[2];
  {
    int64_t at[2];
    for (int i = 0; i < 2; ++i) at[i] = rows.has(i) ? row_at(p.a.q, rows.head, rows.token(i)) : -1;
    load_pairs(p.a.q, at, p.a.dim, phi);
    make_features(at, p.a.dim, phi);
  }
#pragma unroll
  for (uint32_t n = 0; n < kWidth / 8; ++n)
#pragma unroll
    for (uint32_t i = 0; i < 4; ++i) {
      const uint32_t at = (n * 8 + 2 * rows.t + i % 2) * 4;
      rest[i / 2] += phi[n][i] * shared_load<float>(Branch::kRest + at);
      all_z[i / 2] += phi[n][i] * shared_load<float>(Branch::kAll + at);
    }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    rest[i] = quad_sum(rest[i]), all_z[i] = quad_sum(all_z[i]);
    const float floor = kBackwardFloor * all_z[i];
    floored[i] = rest[i] < floor;
    const float denominator = floored[i] ? floor : rest[i];
    inverse[i] = denominator == 0 || !rows.has(i) ? 0.0F : 1 / denominator;
    sparse[i] = share[i] = 1;
    if (p.a.join != kJoinMix || !rows.has(i)) continue;
    const int64_t at = row + rows.g + 8 * i;
    const float log_sum = (p.rows.top[at] - log2_of(p.rows.weight[at])) * kLn2;
    const Shares shares = mix_shares(p.a, log_sum);
    sparse[i] = inverse[i] == 0 ? 1.0F : shares.sparse, share[i] = inverse[i] == 0 ? 0.0F : shares.linear;
    if (p.a.mix_by_lse != 0) difference[i] = log_sum - p.a.rest_log_sum[place];
  }

  float gradient[kWidth / 8][4], of_mean[2] = {0, 0};  // dO · (H - z·rᵀ)ᵀ; dO · r
  {
    LeftRows<kWidth> d_out;
    d_out.load(p.gradients + rows.head * all * kWidth * 2, block_row < all ? block_row : 0);
#pragma unroll
    for (uint32_t step = 0; step < kWidth / 16; ++step)
#pragma unroll
      for (uint32_t i = 0; i < 4; ++i) {
        const uint32_t at = Map::kMean + (step * 16 + i / 2 * 8 + 2 * rows.t) * 4;
        of_mean[i % 2] += from_bf16(d_out.a[step][i] & 0xFFFFU) * shared_load<float>(at) +
                          bits_to_float(d_out.a[step][i] & 0xFFFF0000U) * shared_load<float>(at + 4);
      }
#pragma unroll
    for (uint32_t n = 0; n < kWidth / 16; ++n) {
      float two[2][4] = {};
#pragma unroll
      for (uint32_t step = 0; step < kWidth / 16; ++step) {
        uint32_t b[4];
        load_columns<kWidth, kWidth * 2>(Map::kState, n * 16, step * 2, b);
        multiply_bf16(two[0], d_out.a[step], b[0], b[1]);
        multiply_bf16(two[1], d_out.a[step], b[2], b[3]);
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) gradient[2 * n][i] = two[0][i], gradient[2 * n + 1][i] = two[1][i];
    }
  }
  float mean[2] = {0, 0}, by_z[2], by_floor[2], factor[2];  // mean: dO · O_l
#pragma unroll
  for (int i = 0; i < 2; ++i) {
#pragma unroll
    for (uint32_t n = 0; n < kWidth / 8; ++n)
      mean[i] += phi[n][2 * i] * gradient[n][2 * i] + phi[n][2 * i + 1] * gradient[n][2 * i + 1];
    const float varying = quad_sum(mean[i]) * inverse[i];
    of_mean[i] = quad_sum(of_mean[i]);
    mean[i] = inverse[i] == 0 ? 0.0F : varying + of_mean[i] * (floored[i] ? rest[i] * inverse[i] : 1.0F);
    by_z[i] = floored[i] ? of_mean[i] : -varying;
    by_floor[i] = floored[i] ? -mean[i] * kBackwardFloor : 0.0F;
    factor[i] = inverse[i] == 0 ? 0.0F : share[i] * inverse[i];
  }
#pragma unroll
  for (uint32_t n = 0; n < kWidth / 8; ++n)
#pragma unroll
    for (uint32_t i = 0; i < 4; ++i) {
      const uint32_t at = (n * 8 + 2 * rows.t + i % 2) * 4, r = i / 2;
      float& x = gradient[n][i];
      x += by_z[r] * shared_load<float>(Branch::kRest + at);
      if (floored[r]) x += by_floor[r] * shared_load<float>(Branch::kAll + at);
      x = factor[r] == 0 ? 0.0F : x * factor[r];
    }
  through_features(phi, gradient);
  if (writes) write_rows<kWidth>(gradient, p.d_queries + row * kWidth);

  // G, rounded; dZ from what was rounded, so that dO·V - D cancels as it should.
  unsigned char* const tile = p.shares + (rows.head * all + block_row / kTileKeys * kTileKeys) * kWidth * 2;
  const auto tile_row = static_cast<uint32_t>(block_row % kTileKeys);
#pragma unroll
  for (uint32_t n = 0; n < kWidth / 8; ++n)
#pragma unroll
    for (uint32_t i = 0; i < 4; i += 2) {
      const float f = factor[i / 2];
      const uint32_t bits = f == 0 ? 0 : pack_bf16(phi[n][i] * f, phi[n][i + 1] * f);
      if (writes)
        *reinterpret_cast<uint32_t*>(
            tile + image_offset(kTileKeys, kWidth * 2, tile_row + rows.g + i * 4, (n * 8 + 2 * rows.t) * 2)) = bits;
      phi[n][i] = from_bf16(bits & 0xFFFFU), phi[n][i + 1] = bits_to_float(bits & 0xFFFF0000U);
    }
  for (int which = 0; which < 2; ++which) {
    float weight[2];
    for (int i = 0; i < 2; ++i)
      weight[i] = factor[i] == 0 || floored[i] != (which == 1) ? 0.0F : -mean[i] * (which == 1 ? kBackwardFloor : 1.0F);
    sync_threads();  // the lines have been read
    write_line<kWidth>(phi, weight);
    sync_threads();
    float* const out = (which == 1 ? p.d_floor : p.d_z) + place * kWidth;
    for (uint32_t c = thread_index(); c < kWidth; c += thread_count()) out[c] = sum_lines<kWidth>(c);
  }
  if (!softmax) return;

  float by_scale[2] = {0, 0}, by_bias[2] = {0, 0};
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int64_t at = row + rows.g + 8 * i;
    if (!rows.has(i) || rows.t != 0) continue;
    const float a = sparse[i], linear = share[i] * mean[i];
    const float weighed = p.given != 0 ? p.rows.mean[at] - linear : a * p.rows.mean[at];
    if (p.d_mix != nullptr && inverse[i] != 0) {
      by_bias[i] = share[i] * weighed - a * linear;
      by_scale[i] = by_bias[i] * difference[i];
    }
    p.rows.weight[at] = a == 0 ? 0.0F : a * p.rows.weight[at];
    if (p.given != 0) p.rows.mean[at] = a == 0 ? 0.0F : weighed / a;
  }
  if (p.d_mix != nullptr) sum_rows<kWidth>(by_scale, by_bias, p.d_mix + 2 * place);
}

}  // namespace sla2::cuda
