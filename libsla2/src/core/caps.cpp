// SPDX-License-Identifier: Apache-2.0
#include "core/caps.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string>

namespace sla2 {

namespace {

Isa detect_isa() {
  Isa best = Isa::kScalar;
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) best = Isa::kAvx2;
  if (best == Isa::kAvx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq"))
    best = Isa::kAvx512;
  if (best == Isa::kAvx512 && __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bf16"))
    best = Isa::kAvx512Bf16;
#endif
  return best;
}

Isa lowered_by_environment(Isa best) {
  const char* wanted = std::getenv("SLA2_ISA");
  if (wanted == nullptr) return best;
  for (const Isa isa : {Isa::kScalar, Isa::kAvx2, Isa::kAvx512, Isa::kAvx512Bf16})
    if (isa_name(isa) == wanted) return std::min(best, isa);
  return best;
}

}  // namespace

Isa active_isa() {
  static const Isa isa = lowered_by_environment(detect_isa());
  return isa;
}

std::string_view isa_name(Isa isa) noexcept {
  constexpr std::array<std::string_view, 4> kNames{"scalar", "avx2", "avx512", "avx512_bf16"};
  return kNames[static_cast<size_t>(isa)];
}

std::string_view cpu_name() {
  static const std::string name = [] {
    std::ifstream file("/proc/cpuinfo");
    for (std::string line; std::getline(file, line);)
      if (line.starts_with("model name")) return line.substr(line.find(':') + 2);
    return std::string("unknown CPU");
  }();
  return name;
}

int physical_threads() noexcept {
  static const int count = [] {
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
    return std::max(1, static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN)));
  }();
  return count;
}

bool has_fast_bf16() { return active_isa() >= Isa::kAvx512Bf16; }

}  // namespace sla2
