// SPDX-License-Identifier: Apache-2.0
// One warp-wide instruction on operands out of memory: what a device's fragment maps are measured with (tests/gpu).
#pragma once
#include <cstdint>

namespace sla2::cuda {

enum Trial : int32_t { kTrialBf16, kTrialInt8, kTrialE4m3, kTrialE4m3Half, kTrialMatrices, kTrialMatricesTransposed };

/// Words of a case. Products: a lane brings a0 … a3, b0, b1 and takes away d0 … d3 (fp16 sums: d0, d1, zeros). load_matrices: 32
/// rows of 4 words in shared memory; a lane takes away r0 … r3.
inline constexpr int kTrialIn = 32 * 6, kTrialOut = 32 * 4;

/// sla2_trial. Grid (cases, 1), 32 threads.
struct TrialParams {
  const uint32_t* in;  ///< [cases][kTrialIn]
  uint32_t* out;       ///< [cases][kTrialOut]
  int32_t trial;
};

/// Products of warpgroups, out of tile images that bulk copies bring.
enum GroupTrial : int32_t { kTrialScoresBf16, kTrialScoresInt8, kTrialValues, kTrialState };
inline constexpr int kGroupTile = 16384, kGroupSteps = 8;
inline constexpr uint32_t kGroupTrialBytes = 1024 + 2 * kGroupTile;

/// sla2_hopper_trial. Grid (cases, 1), 128 threads.
struct GroupTrialParams {
  const unsigned char* tiles;  ///< [cases][2][kGroupTile]: left (kTrialState), right
  const uint32_t* left;        ///< [cases][128][kGroupSteps][4]: fragments of the left-hand side (the others)
  uint32_t* out;               ///< [cases][128][64]: a thread's sums; scores use half
  int32_t trial;
};

}  // namespace sla2::cuda
