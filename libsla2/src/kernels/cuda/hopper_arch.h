// SPDX-License-Identifier: Apache-2.0
// What the Hopper family uses beside arch.h: arrival barriers in shared memory (mbarriers), bulk copies that arrive at them, and
// products of warpgroups (four warps, 64 rows), which run by themselves between a fence and a wait. Written twice, as arch.h is.
#pragma once
#include "kernels/cuda/arch.h"

namespace sla2::cuda {

/// How rows of an operand tile lie in shared memory. Numbers: PTX ISA, matrix descriptor of wgmma, bits 62-63.
enum class Swizzle : uint32_t { k128 = 1, k64 = 2 };

/// A matrix descriptor. `address` of the first element in shared memory's own counting; `leading`: bytes from one 128-byte panel
/// of columns to the next, where columns are contiguous; `stride`: bytes from eight rows to the next eight.
constexpr uint64_t group_operand(uint32_t address, uint32_t leading, uint32_t stride, Swizzle swizzle) {
  return static_cast<uint64_t>((address & 0x3FFFFU) >> 4U) | static_cast<uint64_t>(leading >> 4U) << 16U |
         static_cast<uint64_t>(stride >> 4U) << 32U | static_cast<uint64_t>(swizzle) << 62U;
}

}  // namespace sla2::cuda

#if defined(SLA2_CUDA_EMULATED)
#include "cuda_emulator/hopper_arch.h"
#else
#include "kernels/cuda/hopper_ptx.h"
#endif
