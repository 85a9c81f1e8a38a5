// SPDX-License-Identifier: Apache-2.0
// The parts of a call as the benchmarks read them.
#pragma once
#include <algorithm>
#include <string>
#include <vector>

#include "attention/attention.h"

namespace sla2::probe {

/// {"router": …, "pack": …}: the median of each part over the runs, in seconds.
inline std::string parts_json(const std::vector<attention::PartTimes>& runs) {
  constexpr const char* kNames[attention::kParts] = {"router", "pack", "sparse", "linear", "mix"};
  std::string text = "{";
  for (int part = 0; part < attention::kParts; ++part) {
    std::vector<double> each;
    for (const attention::PartTimes& run : runs) each.push_back(run.seconds[part]);
    std::nth_element(each.begin(), each.begin() + static_cast<std::ptrdiff_t>(each.size() / 2), each.end());
    text += fmt::format("{}\"{}\": {:.6f}", part == 0 ? "" : ", ", kNames[part], each[each.size() / 2]);
  }
  return text + "}";
}

}  // namespace sla2::probe
