// SPDX-License-Identifier: Apache-2.0
// Which instructions this CPU has, whatever SLA2_ISA says, and what each of them is for here.
#pragma once
#include <string_view>
#include <vector>

namespace sla2 {

struct CpuFlags {
  bool avx2 = false, fma = false, f16c = false;
  bool bmi = false;     ///< BMI1 and BMI2
  bool avx512 = false;  ///< F, CD, BW, VL and DQ
  bool vnni = false, bf16 = false;
};
[[nodiscard]] CpuFlags cpu_flags() noexcept;

struct CpuFeature {
  std::string_view name;
  bool present;
  std::string_view enables;
};
[[nodiscard]] std::vector<CpuFeature> cpu_features();

}  // namespace sla2
