// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/hopper_arch.h"
#include "kernels/cuda/hopper_tiles.h"
#include "kernels/cuda/trial.h"

namespace sla2::cuda {
namespace {

template <typename T, int kParts>
SLA2_DEVICE void give(uint32_t* out, const T (&d)[kParts][4]) {
  union {
    T number;
    uint32_t word;
  } bits{};
#pragma unroll
  for (int n = 0; n < kParts; ++n)
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      bits.number = d[n][i];
      out[n * 4 + i] = bits.word;
    }
}

/// Scores: kSteps times 32 bytes of depth.
template <typename T, int kSteps>
SLA2_DEVICE void scores(const uint32_t (&a)[kGroupSteps][4], uint32_t right, uint32_t* out) {
  T d[8][4];
  group_fence();
#pragma unroll
  for (uint32_t k = 0; k < kSteps; ++k)
    group_scores(d, a[k], group_operand(right + k / 4 * kHopperPanel + k % 4 * 32, 0, kHopperEight, Swizzle::k128), k > 0);
  group_commit();
  group_wait<0>();
  group_hold(d);
  give(out, d);
}

SLA2_DEVICE void across(const uint32_t (&a)[kGroupSteps][4], uint32_t left, uint32_t right, bool state, uint32_t* out) {
  float d[16][4];
  group_fence();
#pragma unroll
  for (uint32_t k = 0; k < kTileKeys / 16; ++k) {
    const uint64_t b = group_operand(right + k * kHopperSixteen, kHopperPanel, kHopperEight, Swizzle::k128);
    if (state)
      group_state(d, group_operand(left + k * kHopperSixteen, kHopperPanel, kHopperEight, Swizzle::k128), b, k > 0);
    else
      group_values(d, a[k], b, k > 0);
  }
  group_commit();
  group_wait<0>();
  group_hold(d);
  give(out, d);
}

}  // namespace

SLA2_KERNEL(sla2_hopper_trial, 128, 1, GroupTrialParams) {
  constexpr uint32_t kLeft = 1024, kRight = kLeft + kGroupTile;
  const unsigned char* const tiles = p.tiles + static_cast<int64_t>(block_x()) * 2 * kGroupTile;
  if (thread_index() == 0) arrivals_init(0, 1), arrivals_made();
  sync_threads();
  if (thread_index() == 0) {
    arrive_announcing(0, 2 * kGroupTile);
    copy_bulk(kLeft, tiles, kGroupTile, 0);
    copy_bulk(kRight, tiles + kGroupTile, kGroupTile, 0);
  }
  await_phase(0, 0);
  const int64_t mine = static_cast<int64_t>(block_x()) * 128 + thread_index();
  uint32_t a[kGroupSteps][4];
#pragma unroll
  for (int k = 0; k < kGroupSteps; ++k)
#pragma unroll
    for (int i = 0; i < 4; ++i) a[k][i] = p.left[(mine * kGroupSteps + k) * 4 + i];
  uint32_t* const out = p.out + mine * 64;
  const uint32_t left = shared_address(kLeft), right = shared_address(kRight);
  if (p.trial == kTrialScoresBf16) scores<float, 8>(a, right, out);
  if (p.trial == kTrialScoresInt8) scores<int32_t, 4>(a, right, out);
  if (p.trial == kTrialValues) across(a, left, right, false, out);
  if (p.trial == kTrialState) across(a, left, right, true, out);
}

}  // namespace sla2::cuda
