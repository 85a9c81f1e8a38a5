// SPDX-License-Identifier: Apache-2.0
// Stored elements → fp32, fast: the hot loop of loading. The result equals core's scalar conversion bit for bit.
#pragma once
#include <cstddef>

#include "core/core.h"

namespace sla2::weights {

/// Convert with the best instruction set of this CPU. `source` may have any alignment.
void to_f32(DType dtype, const std::byte* source, float* target, size_t count);

#if defined(__x86_64__)
/// bf16, fp16 (F16C) and fp8-e4m3; multiples of 16 elements. Returns how many were done; 0 for other types.
size_t to_f32_avx2(DType dtype, const std::byte* source, float* target, size_t count);
#endif

}  // namespace sla2::weights
