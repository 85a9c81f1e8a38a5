// SPDX-License-Identifier: Apache-2.0
// fp32 to e4m3 (FP8 without infinity, 0x7f is NaN) as PTX's cvt.rn.satfinite and PyTorch's float8_e4m3fn (2.13; older ones give
// NaN above 464) do it: to the nearest, ties to even; what is larger than 448, infinity too, becomes 448; NaN stays.
// Back again: f8e4m3_to_f32 in core/dtype.h.
#pragma once
#include <bit>
#include <cstdint>

namespace sla2::kernels {

constexpr float kLargestE4m3 = 448;

[[nodiscard]] constexpr uint8_t f32_to_e4m3(float x) {
  constexpr uint32_t kSign = 0x80000000U, kLeastNormal = 0x3c800000U /* 2^-6 */, kNaN = 0x7f, kLargest = 0x7e;
  constexpr int kDropped = 20;             // mantissa bits of fp32 that e4m3 lacks
  constexpr uint32_t kRebias = 120U << 3;  // 127 - 7, above 3 mantissa bits
  const uint32_t bits = std::bit_cast<uint32_t>(x), size = bits & ~kSign;
  const auto sign = static_cast<uint8_t>((bits & kSign) >> 24);
  uint32_t code = kNaN;
  if (size < kLeastNormal) {
    // 2^14 has steps of 2^-9, e4m3's smallest number: the addition rounds.
    code = std::bit_cast<uint32_t>(std::bit_cast<float>(size) + 0x1p14F) - std::bit_cast<uint32_t>(0x1p14F);
  } else if (size <= 0x7f800000U) {
    code = ((size + 0x7ffffU + ((size >> kDropped) & 1U)) >> kDropped) - kRebias;
    if (code > kLargest) code = kLargest;
  }
  return static_cast<uint8_t>(sign | code);
}

}  // namespace sla2::kernels
