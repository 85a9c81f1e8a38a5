// SPDX-License-Identifier: Apache-2.0
// What the memory functions of caps.h read, from a folder of one's choice: tests plant a machine there.
#pragma once
#include <cstdint>
#include <string>

namespace sla2 {

struct MemoryBounds {
  uint64_t total = 0;  ///< RAM, or the lowest limit of our control group and those above it
  /// What can be had without swapping, and before any of those groups is full. File cache that is not in use counts as free
  /// there, as the kernel counts it for the machine: it is given back before anything is refused.
  uint64_t available = 0;
};

/// `root` is put before /proc and /sys.
[[nodiscard]] MemoryBounds memory_bounds(const std::string& root);

}  // namespace sla2
