// SPDX-License-Identifier: Apache-2.0
// Warp-wide instructions: their fragment maps, and what the units compute. Called from fibres.
#pragma once
#include <cstdint>

#include "core/dtype.h"
#include "kernels/e4m3.h"

namespace sla2::emulator {

/// Sums of e4m3 products: the tensor cores of Ada and Hopper keep 13 mantissa bits and cut the rest off.
enum class ShortSums : uint8_t { kExact, kCutOff };
void set_short_sums(ShortSums sums);

void load_matrices(uint32_t at, uint32_t (&r)[4], bool transposed);
void multiply_bf16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);
void multiply_int8(int32_t (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);
void multiply_e4m3(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);
/// d: fp16, elements 0, 1 and 2, 3 of a fragment.
void multiply_e4m3_half(uint32_t (&d)[2], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);

}  // namespace sla2::emulator
