// SPDX-License-Identifier: Apache-2.0
// What this machine can do: instruction sets (SLA2_ISA=scalar|avx2|avx512|avx512_vnni|avx512_bf16 lowers it), cores, memory. What
// each instruction is for: core/cpu_features.h.
#pragma once
#include <cstdint>
#include <string_view>

namespace sla2 {

/// Each has what those before it have; kAvx512Bf16 has VNNI.
enum class Isa : uint8_t { kScalar = 0, kAvx2 = 1, kAvx512 = 2, kAvx512Vnni = 3, kAvx512Bf16 = 4 };
inline constexpr Isa kAllIsas[] = {Isa::kScalar, Isa::kAvx2, Isa::kAvx512, Isa::kAvx512Vnni, Isa::kAvx512Bf16};

/// The best instruction set of this CPU, lowered by the environment variable SLA2_ISA; read once. A word that cannot be followed
/// is told to the log, once.
[[nodiscard]] Isa active_isa();
[[nodiscard]] std::string_view isa_complaint();  ///< why SLA2_ISA is not followed; empty where it is, or is not set
[[nodiscard]] std::string_view isa_name(Isa isa) noexcept;
[[nodiscard]] std::string_view cpu_name();
[[nodiscard]] int physical_threads() noexcept;  ///< CPUs this process may run on (affinity respected)
/// True where bf16 matrix products run at least as fast as fp32 ones (AVX512-BF16 or AMX).
[[nodiscard]] bool has_fast_bf16();
[[nodiscard]] uint64_t total_memory_bytes() noexcept;      ///< RAM, or the cgroup limit if lower
[[nodiscard]] uint64_t available_memory_bytes() noexcept;  ///< what can be had without swapping
[[nodiscard]] uint64_t peak_resident_bytes() noexcept;     ///< high-water mark of this process
[[nodiscard]] uint64_t resident_bytes() noexcept;

}  // namespace sla2
