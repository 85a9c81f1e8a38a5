// SPDX-License-Identifier: Apache-2.0
#include "core/cpu_features.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace sla2 {

namespace {

/// F16C has no name that every compiler's __builtin_cpu_supports() knows. AVX2, asked for beside it, says that the system keeps
/// wide registers.
bool has_f16c() noexcept {
#if defined(__x86_64__)
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & static_cast<unsigned>(bit_F16C)) != 0;
#else
  return false;
#endif
}

}  // namespace

CpuFlags cpu_flags() noexcept {
  CpuFlags flags;
#if defined(__x86_64__)
  __builtin_cpu_init();
  flags.avx2 = __builtin_cpu_supports("avx2") != 0;
  flags.fma = __builtin_cpu_supports("fma") != 0;
  flags.f16c = flags.avx2 && has_f16c();
  flags.bmi = __builtin_cpu_supports("bmi") != 0 && __builtin_cpu_supports("bmi2") != 0;
  flags.avx512 = __builtin_cpu_supports("avx512f") != 0 && __builtin_cpu_supports("avx512cd") != 0 &&
                 __builtin_cpu_supports("avx512bw") != 0 && __builtin_cpu_supports("avx512vl") != 0 &&
                 __builtin_cpu_supports("avx512dq") != 0;
  flags.vnni = __builtin_cpu_supports("avx512vnni") != 0;
  flags.bf16 = __builtin_cpu_supports("avx512bf16") != 0;
#endif
  return flags;
}

std::vector<CpuFeature> cpu_features() {
  const CpuFlags cpu = cpu_flags();
  return {{"AVX2", cpu.avx2, "every kernel in vectors of 8 floats (with FMA, F16C and BMI); without it plain code runs"},
          {"FMA", cpu.fma, "products and sums in one step: fp32 attention and Linears"},
          {"F16C", cpu.f16c, "fp16 inputs, outputs and weights converted by the CPU"},
          {"BMI", cpu.bmi, "asked for with AVX2"},
          {"AVX-512", cpu.avx512, "attention in vectors of 16 floats (F, CD, BW, VL, DQ)"},
          {"AVX-512 VNNI", cpu.vnni, "bytes multiplied as they are: 8-bit attention and Linears"},
          {"AVX-512 BF16", cpu.bf16, "bf16 attention, Linears and convolutions; without it they multiply fp32"}};
}

}  // namespace sla2
