// SPDX-License-Identifier: Apache-2.0
// What the kernels use of a GPU: a few dozen functions in namespace sla2::cuda, written twice. ptx.h says them in PTX; the
// emulator of tests/cuda_emulator says them in plain C++, so that the same kernel bodies run, checked, without a GPU.
//
// Shared memory is one array, addressed by byte offsets. Words of the field: a warp is 32 lanes; g = lane / 4, t = lane % 4.
#pragma once
#include <cstddef>
#include <cstdint>

#if defined(SLA2_CUDA_EMULATED)
#include "cuda_emulator/arch.h"
#else
#include "kernels/cuda/ptx.h"
#endif
