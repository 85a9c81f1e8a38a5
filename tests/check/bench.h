// SPDX-License-Identifier: Apache-2.0
// The same cases, timed.
#pragma once
#include "check.h"

namespace sla2::check {

struct Timing {
  std::string line, isa;
  int threads = 0;
  double median = 0, deviation = 0;  ///< seconds; median absolute deviation
  double dense_ratio = 0;            ///< seconds of mode=full at the same shape, isa and threads over these; 1 for full itself
  double executed_gflops = 0;        ///< on the blocks that were computed: 4·N·N_kv·D·(share kept) per head
};

[[nodiscard]] std::vector<Timing> bench(const std::vector<Case>& cases, const Settings& settings, int repeats);
[[nodiscard]] std::string to_csv(const std::vector<Timing>& timings);
[[nodiscard]] std::string to_json(const std::vector<Timing>& timings);
/// Timings against those of an earlier to_json: one line per case; `slower` counts those beyond both runs' noise.
[[nodiscard]] std::string compare(const std::vector<Timing>& now, const std::string& old_path, int& slower);

}  // namespace sla2::check
