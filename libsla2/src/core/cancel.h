// SPDX-License-Identifier: Apache-2.0
// One stop flag per job, checked between blocks; any thread may set it.
#pragma once
#include <atomic>

#include "core/error.h"

namespace sla2 {

class CancelToken {
 public:
  void request() noexcept { flag_.store(true, std::memory_order_relaxed); }
  [[nodiscard]] bool requested() const noexcept { return flag_.load(std::memory_order_relaxed); }
  /// Throw SLA2_E_CANCELLED if a stop was asked for.
  void check() const {
    if (requested()) fail(SLA2_E_CANCELLED, "cancelled on request");
  }

 private:
  std::atomic<bool> flag_{false};
};

}  // namespace sla2
