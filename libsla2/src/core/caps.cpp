// SPDX-License-Identifier: Apache-2.0
#include "core/caps.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string>

#include "core/cpu_features.h"
#include "core/log.h"

namespace sla2 {

namespace {

/// What the files of each instruction set are compiled with, as far as a compiler uses it unasked.
Isa detect_isa() {
  const CpuFlags cpu = cpu_flags();
  if (!cpu.avx2 || !cpu.fma || !cpu.f16c || !cpu.bmi) return Isa::kScalar;
  if (!cpu.avx512) return Isa::kAvx2;
  if (!cpu.vnni) return Isa::kAvx512;
  return cpu.bf16 ? Isa::kAvx512Bf16 : Isa::kAvx512Vnni;
}

struct IsaChoice {
  Isa isa = Isa::kScalar;
  std::string complaint;
};

/// Neither a word nobody knows nor more than the CPU has is worth ending somebody's program for: the best there is, and a
/// complaint.
IsaChoice choose_isa() {
  const Isa best = detect_isa();
  const char* wanted = std::getenv("SLA2_ISA");
  if (wanted == nullptr || *wanted == '\0') return {best, ""};
  for (const Isa isa : kAllIsas) {
    if (isa_name(isa) != wanted) continue;
    if (isa <= best) return {isa, ""};
    return {best, fmt::format("SLA2_ISA={}: this CPU lacks it; {} is used, the best there is", wanted, isa_name(best))};
  }
  return {best,
          fmt::format("SLA2_ISA={} is no instruction set; expected scalar, avx2, avx512, avx512_vnni or avx512_bf16; {} is used",
                      wanted, isa_name(best))};
}

const IsaChoice& isa_choice() {
  static const IsaChoice choice = choose_isa();
  return choice;
}

}  // namespace

Isa active_isa() {
  static std::atomic<bool> told{false};
  const IsaChoice& choice = isa_choice();
  if (!choice.complaint.empty() && log_enabled() && !told.exchange(true)) log_text(SLA2_LOG_WARNING, choice.complaint);
  return choice.isa;
}

std::string_view isa_complaint() { return isa_choice().complaint; }

std::string_view isa_name(Isa isa) noexcept {
  constexpr std::array<std::string_view, std::size(kAllIsas)> kNames{"scalar", "avx2", "avx512", "avx512_vnni", "avx512_bf16"};
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
