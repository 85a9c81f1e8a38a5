// SPDX-License-Identifier: Apache-2.0
// One case on every instruction set asked for: truth, guards, budget, bits.
#pragma once
#include "judge.h"
#include "subject.h"

namespace sla2::check {

struct Finding {
  Status status = Status::kUntested;
  std::string isa, line, where, reason;
  double share = 0;
};

struct Settings {
  std::vector<Target> targets;
  std::vector<int> threads{1, 2, 3, 7};  ///< the first gives the result, the others must give the same bits
};

/// One finding per instruction set; a single SKIP where the door has no words for the case.
[[nodiscard]] std::vector<Finding> check_case(const Case& c, const Settings& settings);

}  // namespace sla2::check
