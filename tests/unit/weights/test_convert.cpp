// SPDX-License-Identifier: Apache-2.0
// Fast conversions against core's scalar ones over every code, and those against the formats' definitions.
#include <bit>
#include <cmath>
#include <numeric>

#include "weights/convert.h"
#include "weights_fixture.h"

namespace sla2::weights::test {
namespace {

/// sign · 2^(e − bias) · (1 + m/2^bits), subnormals, and the format's special codes; written from the definition.
double decode(uint32_t code, int exponent_bits, int mantissa_bits, bool has_infinity) {
  const int bias = (1 << (exponent_bits - 1)) - 1, top = (1 << exponent_bits) - 1;
  const auto mantissa = static_cast<int>(code & ((1U << mantissa_bits) - 1));
  const auto exponent = static_cast<int>((code >> mantissa_bits) & static_cast<uint32_t>(top));
  const double sign = (code >> (exponent_bits + mantissa_bits)) & 1 ? -1 : 1;
  if (has_infinity && exponent == top) return mantissa == 0 ? sign * INFINITY : NAN;
  if (!has_infinity && exponent == top && mantissa == (1 << mantissa_bits) - 1) return NAN;
  const double fraction = static_cast<double>(mantissa) / (1 << mantissa_bits);
  return exponent == 0 ? sign * std::ldexp(fraction, 1 - bias) : sign * std::ldexp(1 + fraction, exponent - bias);
}

bool same(float got, double expected) {
  if (std::isnan(expected)) return std::isnan(got);
  return static_cast<double>(got) == expected && std::signbit(got) == std::signbit(expected);
}

struct Format {
  DType dtype;
  int exponent_bits, mantissa_bits;
  bool has_infinity;
};

}  // namespace

TEST_CASE("every code of every small float converts to its defined value, at any alignment and length") {
  for (const Format format : {Format{DType::kBF16, 8, 7, true}, Format{DType::kF16, 5, 10, true},
                              Format{DType::kF8E4M3, 4, 3, false}, Format{DType::kF8E5M2, 5, 2, true}}) {
    INFO(dtype_name(format.dtype));
    const size_t size = dtype_size(format.dtype), codes = size_t{1} << (8 * size);
    std::vector<std::byte> stored(codes * size + 1);
    for (const size_t shift : {size_t{0}, size_t{1}}) {
      for (size_t code = 0; code < codes; ++code) std::memcpy(stored.data() + shift + code * size, &code, size);
      std::vector<float> numbers(codes);
      to_f32(format.dtype, stored.data() + shift, numbers.data(), codes);
      size_t wrong = 0;
      for (size_t code = 0; code < codes; ++code) {
        wrong += !same(numbers[code],
                       decode(static_cast<uint32_t>(code), format.exponent_bits, format.mantissa_bits, format.has_infinity));
      }
      CHECK(wrong == 0);
    }
    for (size_t count = 0; count < 40; ++count) {  // tails
      std::vector<float> numbers(count + 1, 77.0F), scalar(count + 1, 77.0F);
      to_f32(format.dtype, stored.data() + 1, numbers.data(), count);
      convert_to_f32(format.dtype, stored.data() + 1, scalar.data(), count);
      CHECK(std::memcmp(numbers.data(), scalar.data(), numbers.size() * sizeof(float)) == 0);
    }
  }
}

TEST_CASE("integers and wide floats convert by value") {
  const std::array<int64_t, 3> wide{-5, 0, 1 << 20};
  std::array<float, 3> numbers{};
  to_f32(DType::kI64, reinterpret_cast<const std::byte*>(wide.data()), numbers.data(), 3);
  CHECK(numbers == std::array<float, 3>{-5, 0, 1 << 20});
  const std::array<double, 2> doubles{0.1, -1e300};
  to_f32(DType::kF64, reinterpret_cast<const std::byte*>(doubles.data()), numbers.data(), 2);
  CHECK(numbers[0] == 0.1F);
  CHECK(std::isinf(numbers[1]));
}

}  // namespace sla2::weights::test
