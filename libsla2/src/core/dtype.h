// SPDX-License-Identifier: Apache-2.0
// Element types of stored tensors, and the conversions between them (scalar; rooms with hot loops bring their own).
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace sla2 {

enum class DType : uint8_t { kUnset = 0, kF32, kF16, kBF16, kF8E4M3, kF8E5M2, kF64, kI8, kU8, kI16, kI32, kI64, kBool };

[[nodiscard]] size_t dtype_size(DType dtype) noexcept;
[[nodiscard]] std::string_view dtype_name(DType dtype) noexcept;

using bf16_t = uint16_t;  ///< storage only: the upper half of an IEEE binary32

[[nodiscard]] float bf16_to_f32(bf16_t value) noexcept;
[[nodiscard]] bf16_t f32_to_bf16(float value) noexcept;  ///< round to nearest even; NaN stays NaN
[[nodiscard]] float f16_to_f32(uint16_t value) noexcept;
[[nodiscard]] uint16_t f32_to_f16(float value) noexcept;
[[nodiscard]] float f8e4m3_to_f32(uint8_t value) noexcept;  ///< e4m3fn: no infinity, 0x7f is NaN
[[nodiscard]] float f8e5m2_to_f32(uint8_t value) noexcept;

/// Convert `count` elements of `dtype` at `source` (any alignment) to fp32. Integer types convert by value.
void convert_to_f32(DType dtype, const void* source, float* target, size_t count);
/// fp32 to bf16, round to nearest even.
void convert_to_bf16(const float* source, bf16_t* target, size_t count) noexcept;

}  // namespace sla2
