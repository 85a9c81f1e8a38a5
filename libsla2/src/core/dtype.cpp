// SPDX-License-Identifier: Apache-2.0
#include "core/dtype.h"

#include <array>
#include <bit>
#include <cmath>
#include <cstring>

#include "core/error.h"

namespace sla2 {

size_t dtype_size(DType dtype) noexcept {
  switch (dtype) {
    case DType::kF64:
    case DType::kI64: return 8;
    case DType::kF32:
    case DType::kI32: return 4;
    case DType::kF16:
    case DType::kBF16:
    case DType::kI16: return 2;
    case DType::kF8E4M3:
    case DType::kF8E5M2:
    case DType::kI8:
    case DType::kU8:
    case DType::kBool: return 1;
    case DType::kUnset: break;
  }
  return 0;
}

std::string_view dtype_name(DType dtype) noexcept {
  switch (dtype) {
    case DType::kF64: return "fp64";
    case DType::kF32: return "fp32";
    case DType::kF16: return "fp16";
    case DType::kBF16: return "bf16";
    case DType::kF8E4M3: return "fp8_e4m3";
    case DType::kF8E5M2: return "fp8_e5m2";
    case DType::kI8: return "int8";
    case DType::kU8: return "uint8";
    case DType::kI16: return "int16";
    case DType::kI32: return "int32";
    case DType::kI64: return "int64";
    case DType::kBool: return "bool";
    case DType::kUnset: break;
  }
  return "unset";
}

float bf16_to_f32(bf16_t value) noexcept { return std::bit_cast<float>(static_cast<uint32_t>(value) << 16); }

bf16_t f32_to_bf16(float value) noexcept {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffU) > 0x7f800000U) return static_cast<bf16_t>((bits >> 16) | 0x40U);  // quiet NaN
  return static_cast<bf16_t>((bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16);
}

float f16_to_f32(uint16_t value) noexcept {
  const uint32_t sign = static_cast<uint32_t>(value & 0x8000U) << 16;
  const uint32_t exponent = (value >> 10) & 0x1fU;
  const uint32_t mantissa = value & 0x3ffU;
  if (exponent == 0) {  // zero or subnormal: value = mantissa · 2^-24
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24F;
    return std::bit_cast<float>(std::bit_cast<uint32_t>(magnitude) | sign);
  }
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000U | (mantissa << 13));
  return std::bit_cast<float>(sign | ((exponent + 112U) << 23) | (mantissa << 13));
}

uint16_t f32_to_f16(float value) noexcept {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t sign = (bits >> 16) & 0x8000U;
  const uint32_t magnitude = bits & 0x7fffffffU;
  if (magnitude > 0x7f800000U) return static_cast<uint16_t>(sign | 0x7e00U);
  if (magnitude >= 0x477ff000U) return static_cast<uint16_t>(sign | 0x7c00U);  // rounds to at least 65520
  if (magnitude < 0x38800000U) {                                               // subnormal: let the adder round
    const float rounded = std::bit_cast<float>(magnitude) + 0.5F;              // 0.5 has ulp 2^-24 = fp16 subnormal ulp
    return static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(rounded) - 0x3f000000U));
  }
  const uint32_t rounded = magnitude + 0xfffU + ((magnitude >> 13) & 1U);
  return static_cast<uint16_t>(sign | ((rounded - 0x38000000U) >> 13));
}

namespace {

// One table per 8-bit format: 256 entries are cheaper than the arithmetic.
template <int kExponentBits, int kBias, bool kFinite>
std::array<float, 256> make_f8_table() {
  constexpr int kMantissaBits = 7 - kExponentBits;
  std::array<float, 256> table{};
  for (int code = 0; code < 256; ++code) {
    const int exponent = (code >> kMantissaBits) & ((1 << kExponentBits) - 1);
    const int mantissa = code & ((1 << kMantissaBits) - 1);
    const int top = (1 << kExponentBits) - 1;
    float value = 0;
    if (kFinite && (code & 0x7f) == 0x7f) {
      value = NAN;
    } else if (!kFinite && exponent == top) {
      value = mantissa == 0 ? INFINITY : NAN;
    } else if (exponent == 0) {
      value = std::ldexp(static_cast<float>(mantissa), 1 - kBias - kMantissaBits);
    } else {
      value = std::ldexp(static_cast<float>(mantissa + (1 << kMantissaBits)), exponent - kBias - kMantissaBits);
    }
    table[static_cast<size_t>(code)] = (code & 0x80) ? -value : value;
  }
  return table;
}

const std::array<float, 256>& e4m3_table() {
  static const auto table = make_f8_table<4, 7, true>();
  return table;
}
const std::array<float, 256>& e5m2_table() {
  static const auto table = make_f8_table<5, 15, false>();
  return table;
}

template <typename T, typename F>
void convert_each(const void* source, float* target, size_t count, F&& to_float) {
  const auto* bytes = static_cast<const unsigned char*>(source);
  for (size_t i = 0; i < count; ++i) {
    T value;
    std::memcpy(&value, bytes + i * sizeof(T), sizeof(T));  // any alignment
    target[i] = to_float(value);
  }
}

}  // namespace

float f8e4m3_to_f32(uint8_t value) noexcept { return e4m3_table()[value]; }
float f8e5m2_to_f32(uint8_t value) noexcept { return e5m2_table()[value]; }

void convert_to_f32(DType dtype, const void* source, float* target, size_t count) {
  const auto by_value = [](auto value) { return static_cast<float>(value); };
  switch (dtype) {
    case DType::kF32: std::memcpy(target, source, count * sizeof(float)); return;
    case DType::kBF16: convert_each<uint16_t>(source, target, count, bf16_to_f32); return;
    case DType::kF16: convert_each<uint16_t>(source, target, count, f16_to_f32); return;
    case DType::kF8E4M3: convert_each<uint8_t>(source, target, count, f8e4m3_to_f32); return;
    case DType::kF8E5M2: convert_each<uint8_t>(source, target, count, f8e5m2_to_f32); return;
    case DType::kF64: convert_each<double>(source, target, count, by_value); return;
    case DType::kI8: convert_each<int8_t>(source, target, count, by_value); return;
    case DType::kU8:
    case DType::kBool: convert_each<uint8_t>(source, target, count, by_value); return;
    case DType::kI16: convert_each<int16_t>(source, target, count, by_value); return;
    case DType::kI32: convert_each<int32_t>(source, target, count, by_value); return;
    case DType::kI64: convert_each<int64_t>(source, target, count, by_value); return;
    case DType::kUnset: break;
  }
  fail(SLA2_E_INTERNAL, "convert_to_f32: element type is unset");
}

void convert_to_bf16(const float* source, bf16_t* target, size_t count) noexcept {
  for (size_t i = 0; i < count; ++i) target[i] = f32_to_bf16(source[i]);
}

}  // namespace sla2
