// SPDX-License-Identifier: Apache-2.0
// Where the seconds of a call went, part by part; a call that was not asked reads no clock.
#pragma once
#include <chrono>

#include "attention/attention.h"

namespace sla2::attention {

/// One worker's; lies in the workspace, so it is nothing until reset() was called.
struct alignas(64) PartClock {
  bool running;
  std::chrono::steady_clock::time_point last;
  PartTimes spent;

  void reset(bool run) { *this = {run, {}, {}}; }
  void start() {
    if (running) last = std::chrono::steady_clock::now();
  }
  /// What passed since start() or the last lap belongs to this part.
  void lap(Part part) {
    if (!running) return;
    const auto now = std::chrono::steady_clock::now();
    spent.seconds[static_cast<int>(part)] += std::chrono::duration<double>(now - last).count();
    last = now;
  }
};

}  // namespace sla2::attention
