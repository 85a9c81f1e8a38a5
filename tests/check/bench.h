// SPDX-License-Identifier: Apache-2.0
// The same cases, timed.
#pragma once
#include "check.h"

namespace sla2::check {

struct Timing {
  std::string line, isa;
  int threads = 0;
  double median = 0, deviation = 0;  ///< seconds; median absolute deviation
  double dense_ratio = 0;   ///< seconds of mode=full at the same shape, isa, direction and threads over these; 1 for full itself
  double scalar_ratio = 0;  ///< seconds of the plain kernels on the same case over these; 0: too long to ask for
  double executed_gflops = 0;  ///< on the blocks that were computed: 4·N·N_kv·D·(share kept) per head, 10 for gradients
  double gigabytes = 0;        ///< a second: every tensor that comes in or goes out, counted once
};

[[nodiscard]] std::vector<Timing> bench(const std::vector<Case>& cases, const Settings& settings, int repeats);
[[nodiscard]] std::string to_csv(const std::vector<Timing>& timings);
/// With the commit, the compiler, the processor and its clock.
[[nodiscard]] std::string to_json(const std::vector<Timing>& timings);
/// Timings against those of an earlier to_json: one line per case; `slower` counts those beyond both runs' noise.
[[nodiscard]] std::string compare(const std::vector<Timing>& now, const std::string& old_path, int& slower);

}  // namespace sla2::check
