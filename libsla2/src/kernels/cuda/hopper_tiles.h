// SPDX-License-Identifier: Apache-2.0
// Every size of the Hopper family, with its reason. Tiles are those of tiles.h.
#pragma once
#include "kernels/cuda/tiles.h"

namespace sla2::cuda {

inline constexpr int kHopperWidth = 128;    ///< narrower heads stay with mma.sync: half of each row would be zeros
inline constexpr int kHopperQueries = 128;  ///< two warpgroups of 64 rows: while one does its softmax the other's products run
inline constexpr uint32_t kHopperConsumers = 256, kHopperThreads = 384;  ///< a third warpgroup for the one thread that copies:
                                                                         ///< registers are handed over by whole warpgroups
inline constexpr int kHopperGiven = 24, kHopperTaken = 240;              ///< registers: 128·24 + 256·240 = 64512 of 65536
inline constexpr uint32_t kHopperStages = 4;
inline constexpr uint32_t kHopperTile = kTileKeys * kHopperWidth * 2;  ///< bf16; an int8 one takes half of its place
inline constexpr uint32_t kHopperPanel = kTileKeys * 128;              ///< of a tile: 64 channels
inline constexpr uint32_t kHopperEight = 8 * 128;                      ///< eight rows of a panel
inline constexpr uint32_t kHopperSixteen = 16 * 128;

/// Shared memory: φ-sums | two arrival barriers per stage | H [W][W] bf16 | queries on their way to fragments | stages of two
/// tiles. Everything that products read starts at a multiple of 1024, where the swizzle's pattern does.
struct HopperMap {
  uint32_t arrivals, state, queries, ring, bytes;
};
constexpr HopperMap hopper_map(bool linear) {
  HopperMap map{};
  map.arrivals = kScratchBytes;
  map.state = map.arrivals + 1024;
  map.queries = map.state + (linear ? kHopperWidth * kHopperWidth * 2 : 0);
  map.ring = map.queries + kHopperQueries * kHopperWidth * 2;
  map.bytes = map.ring + kHopperStages * 2 * kHopperTile;
  return map;
}
static_assert(hopper_map(true).bytes <= 227 * 1024, "what a block of compute capability 9.0 may have");

}  // namespace sla2::cuda
