// SPDX-License-Identifier: Apache-2.0
#include "machine.h"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>

namespace sla2::check {

std::string commit() {
  // Asked when it runs: what the build tree was configured with goes stale.
  std::FILE* const git =
      popen("git -C '" SLA2_CHECK_LISTS "' describe --always --dirty --exclude '*' --abbrev=12 2>/dev/null", "r");
  if (git == nullptr) return "unknown";
  char line[128] = {};
  const bool read = std::fgets(line, sizeof line, git) != nullptr;
  std::string text = pclose(git) == 0 && read ? line : "unknown";
  while (!text.empty() && text.back() == '\n') text.pop_back();
  return text;
}

std::string compiler() {
#if defined(__clang__)
  return "clang " __clang_version__;
#else
  return "gcc " __VERSION__;
#endif
}

double clock_ghz() {
  constexpr int kSteps = 1 << 17, kTogether = 8, kTimes = 512;  // short, so that some of them are not interrupted
  double best = 0;
  for (int time = 0; time < kTimes; ++time) {
    uint64_t x = 0;
    const auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < kSteps / kTogether; ++i)
#pragma GCC unroll 8
      for (int n = 0; n < kTogether; ++n) {
        x += 1;
        __asm__ volatile("" : "+r"(x));  // each addition waits for the one before
      }
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    best = std::max(best, kSteps / seconds * 1e-9);
  }
  return best;
}

}  // namespace sla2::check
