// SPDX-License-Identifier: Apache-2.0
// Warp-wide instructions measured on a device, beside the emulator's tables.
#pragma once
#include <string>
#include <vector>

#include "check/gpu.h"

namespace sla2::gpu_check {

struct TrialResult {
  std::string instruction;
  int cases = 0, different = 0;
  std::string first;  ///< the first difference, in words; or why it was not tried
  int sum_bits = 0;   ///< bits behind the leading one that a sum keeps; 0: not measured
  bool tried = true;
};

/// One result per instruction that the architecture has. Each operand element alone against numbers that are all different, so
/// that the outcome names the row, column and depth of the element; and random operands. planted: two lanes of the first operand
/// are exchanged on the device's side, which must be noticed.
[[nodiscard]] std::vector<TrialResult> run_trials(check::TestGpu& gpu, bool planted);

}  // namespace sla2::gpu_check
