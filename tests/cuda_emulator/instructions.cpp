// SPDX-License-Identifier: Apache-2.0
// Maps: PTX ISA, "Matrix Fragments for mma.m16n8k16 with floating point type", "… for mma.m16n8k32", "ldmatrix". A register holds
// `kPerRegister` neighbours along k; lane = 4·g + t.
#include "instructions.h"

#include <atomic>
#include <bit>
#include <cmath>
#include <cstring>

#include "block.h"
#include "group_products.h"

namespace sla2::emulator {
namespace {

std::atomic<ShortSums> short_sums{ShortSums::kCutOff};

template <typename Sum>
struct Operands {
  Sum* d;
  const uint32_t* a;
  uint32_t b[2];
};

struct Bf16 {
  using Sum = float;
  using Wide = double;
  static constexpr uint32_t kPerRegister = 2, kBits = 16;
  static double value(uint32_t bits) { return static_cast<double>(bf16_to_f32(static_cast<bf16_t>(bits))); }
  static float result(double sum) { return static_cast<float>(sum); }
};
struct Int8 {
  using Sum = int32_t;
  using Wide = int64_t;
  static constexpr uint32_t kPerRegister = 4, kBits = 8;
  static int64_t value(uint32_t bits) { return static_cast<int8_t>(bits); }
  static int32_t result(int64_t sum) { return static_cast<int32_t>(sum); }
};
struct E4m3 {
  using Sum = float;
  using Wide = double;
  static constexpr uint32_t kPerRegister = 4, kBits = 8;
  static double value(uint32_t bits) { return static_cast<double>(f8e4m3_to_f32(static_cast<uint8_t>(bits))); }
  static float result(double sum) {
    constexpr uint64_t kKept = ~((uint64_t{1} << (52 - 13)) - 1);
    if (std::isfinite(sum) && short_sums == ShortSums::kCutOff) sum = std::bit_cast<double>(std::bit_cast<uint64_t>(sum) & kKept);
    return static_cast<float>(sum);
  }
};

/// The same sums, short as they are, rounded to fp16; above 65504 infinity.
struct E4m3Half : E4m3 {
  static float result(double sum) { return f16_to_f32(f32_to_f16(E4m3::result(sum))); }
};

/// a [16, K] row by row, b [K, 8] column by column, d [16, 8]; K = 8 · kPerRegister.
template <typename Type>
void multiply(void* const* lanes) {
  constexpr uint32_t kHalf = 4 * Type::kPerRegister, kDepth = 2 * kHalf, kMask = (1U << Type::kBits) - 1;
  typename Type::Wide a[16][kDepth], b[8][kDepth];
  for (uint32_t lane = 0; lane < kLanes; ++lane) {
    const auto& mine = *static_cast<const Operands<typename Type::Sum>*>(lanes[lane]);
    const uint32_t g = lane / 4, k = lane % 4 * Type::kPerRegister;
    for (uint32_t i = 0; i < Type::kPerRegister; ++i) {
      const auto part = [i](uint32_t bits) { return Type::value(bits >> (i * Type::kBits) & kMask); };
      a[g][k + i] = part(mine.a[0]);
      a[g + 8][k + i] = part(mine.a[1]);
      a[g][k + kHalf + i] = part(mine.a[2]);
      a[g + 8][k + kHalf + i] = part(mine.a[3]);
      b[g][k + i] = part(mine.b[0]);
      b[g][k + kHalf + i] = part(mine.b[1]);
    }
  }
  for (uint32_t lane = 0; lane < kLanes; ++lane) {
    const auto& mine = *static_cast<const Operands<typename Type::Sum>*>(lanes[lane]);
    for (uint32_t i = 0; i < 4; ++i) {
      const uint32_t row = lane / 4 + (i < 2 ? 0 : 8), column = lane % 4 * 2 + i % 2;
      typename Type::Wide sum = static_cast<typename Type::Wide>(mine.d[i]);
      for (uint32_t k = 0; k < kDepth; ++k) sum += a[row][k] * b[column][k];
      mine.d[i] = Type::result(sum);
    }
  }
}

template <typename Type>
void meet_and_multiply(const char* what, typename Type::Sum* d, const uint32_t* a, uint32_t b0, uint32_t b1) {
  Operands<typename Type::Sum> mine{d, a, {b0, b1}};
  Block::current().collective(what, &mine, &multiply<Type>);
}

struct Rows {
  uint32_t at;
  uint32_t* registers;
};

template <bool kTransposed>
void gather(void* const* lanes) {
  for (uint32_t matrix = 0; matrix < 4; ++matrix) {
    uint16_t elements[8][8];
    for (uint32_t row = 0; row < 8; ++row)
      std::memcpy(elements[row], Block::current().shared(static_cast<const Rows*>(lanes[matrix * 8 + row])->at),
                  sizeof elements[row]);
    for (uint32_t lane = 0; lane < kLanes; ++lane) {
      const uint32_t g = lane / 4, t = lane % 4;
      const uint32_t low = kTransposed ? elements[2 * t][g] : elements[g][2 * t];
      const uint32_t high = kTransposed ? elements[2 * t + 1][g] : elements[g][2 * t + 1];
      static_cast<const Rows*>(lanes[lane])->registers[matrix] = low | high << 16U;
    }
  }
}

}  // namespace

void set_short_sums(ShortSums sums) { short_sums = sums; }
float short_sum(double sum) { return E4m3::result(sum); }

void load_matrices(uint32_t at, uint32_t (&r)[4], bool transposed) {
  Block::current().check_read(at, 16);
  Rows mine{at, r};
  if (transposed)
    Block::current().collective("load_matrices_transposed", &mine, &gather<true>);
  else
    Block::current().collective("load_matrices", &mine, &gather<false>);
}

void multiply_bf16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  meet_and_multiply<Bf16>("multiply_bf16", d, a, b0, b1);
}
void multiply_int8(int32_t (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  meet_and_multiply<Int8>("multiply_int8", d, a, b0, b1);
}
void multiply_e4m3(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  meet_and_multiply<E4m3>("multiply_e4m3", d, a, b0, b1);
}
void multiply_e4m3_half(uint32_t (&d)[2], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  float sums[4];
  for (uint32_t i = 0; i < 4; ++i) sums[i] = f16_to_f32(static_cast<uint16_t>(d[i / 2] >> i % 2 * 16));
  meet_and_multiply<E4m3Half>("multiply_e4m3_half", sums, a, b0, b1);
  for (uint32_t i = 0; i < 2; ++i) d[i] = f32_to_f16(sums[2 * i]) | static_cast<uint32_t>(f32_to_f16(sums[2 * i + 1])) << 16U;
}

}  // namespace sla2::emulator
