// SPDX-License-Identifier: Apache-2.0
// What this machine can do: instruction sets (SLA2_ISA=scalar|avx2|avx512|avx512_bf16 lowers it), cores, memory.
#pragma once
#include <cstdint>
#include <string_view>

namespace sla2 {

enum class Isa : uint8_t { kScalar = 0, kAvx2 = 1, kAvx512 = 2, kAvx512Bf16 = 3 };

/// The best instruction set of this CPU, lowered by the environment variable SLA2_ISA; read once.
[[nodiscard]] Isa active_isa();
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
