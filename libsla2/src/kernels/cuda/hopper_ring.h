// SPDX-License-Identifier: Apache-2.0
// Stages that one thread fills by bulk copies and eight warps empty, each at its own pace.
#pragma once
#include "kernels/cuda/hopper_arch.h"
#include "kernels/cuda/hopper_tiles.h"

namespace sla2::cuda {

/// A place in the ring. Both sides walk the same sequence of stages; a stage's barriers turn a phase per lap.
struct Ring {
  uint32_t arrivals, first;  ///< bytes in shared memory
  uint32_t stage = 0, lap = 0;

  [[nodiscard]] SLA2_DEVICE uint32_t full() const { return arrivals + stage * 16; }
  [[nodiscard]] SLA2_DEVICE uint32_t empty() const { return full() + 8; }
  [[nodiscard]] SLA2_DEVICE uint32_t tile(uint32_t which) const { return first + (stage * 2 + which) * kHopperTile; }
  SLA2_DEVICE void next() {
    if (++stage == kHopperStages) stage = 0, lap ^= 1U;
  }

  /// By one thread, before the block meets.
  SLA2_DEVICE void make() const {
    Ring at = *this;
    for (uint32_t i = 0; i < kHopperStages; ++i, at.next()) {
      arrivals_init(at.full(), 1);
      arrivals_init(at.empty(), kHopperConsumers / 32);
    }
    arrivals_made();
  }
  /// The copying thread: two tiles into the next stage once it is empty.
  SLA2_DEVICE void fill(const unsigned char* one, uint32_t one_bytes, const unsigned char* two, uint32_t two_bytes) {
    await_phase(empty(), lap ^ 1U);
    arrive_announcing(full(), one_bytes + two_bytes);
    copy_bulk(tile(0), one, one_bytes, full());
    copy_bulk(tile(1), two, two_bytes, full());
    next();
  }
  SLA2_DEVICE void wait() const { await_phase(full(), lap); }
  /// A warp that has waited for its products of this stage.
  SLA2_DEVICE void release() const {
    if (thread_index() % 32 == 0) arrive(empty());
  }
};

}  // namespace sla2::cuda
