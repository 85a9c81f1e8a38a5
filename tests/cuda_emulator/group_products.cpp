// SPDX-License-Identifier: Apache-2.0
// PTX ISA, "Asynchronous Warpgroup Level Matrix Instructions": matrix descriptor, strides, swizzling modes; fragments as of
// mma.m16n8k16 and m16n8k32, a warp's 16 rows at a time.
#include "group_products.h"

#include <bit>
#include <cmath>
#include <cstring>

#include "block.h"
#include "core/dtype.h"

namespace sla2::emulator {
namespace {

/// A descriptor, taken apart; bytes.
struct Operand {
  uint32_t start, leading, stride, mode;
  explicit Operand(uint64_t bits)
      : start(static_cast<uint32_t>(bits & 0x3FFFU) << 4U),
        leading(static_cast<uint32_t>(bits >> 16U & 0x3FFFU) << 4U),
        stride(static_cast<uint32_t>(bits >> 32U & 0x3FFFU) << 4U),
        mode(static_cast<uint32_t>(bits >> 62U)) {}
  [[nodiscard]] uint32_t row_bytes() const { return mode == 1 ? 128 : 64; }
  /// The hardware exchanges bits of the address itself.
  [[nodiscard]] uint32_t swizzled(uint32_t address) const {
    return mode == 1 ? address ^ ((address >> 7U & 7U) << 4U) : address ^ ((address >> 7U & 3U) << 4U);
  }
  /// Depth contiguous: byte `byte` of the 32 of row `row`.
  [[nodiscard]] uint32_t along_depth(uint32_t row, uint32_t byte) const {
    return swizzled(start + row / 8 * stride + row % 8 * row_bytes() + byte);
  }
  /// Rows contiguous (of 16-bit elements): element `row` at depth `k`.
  [[nodiscard]] uint32_t along_rows(uint32_t row, uint32_t k) const {
    const uint32_t panel = row_bytes() / 2;
    return swizzled(start + row / panel * leading + k / 8 * stride + k % 8 * row_bytes() + row % panel * 2);
  }
};

/// What the unit reads, checked: 16 bytes at a time is how it stands in shared memory.
void check(uint32_t address) { Block::current().check_engine_read(address / 16 * 16, 16); }

template <typename T>
T element(uint32_t address) {
  T x;
  std::memcpy(&x, Block::current().shared(address), sizeof x);
  return x;
}

double bf16(uint16_t bits) { return static_cast<double>(bf16_to_f32(bits)); }

/// a [16, K] of this warp, b [K, kColumns].
template <typename Sum, typename Number, uint32_t kDepth, uint32_t kColumns, bool kShort = false>
struct Matrices {
  Number a[16][kDepth], b[kDepth][kColumns];

  void add_to(uint32_t (*sums)[64], bool add) const {
    for (uint32_t lane = 0; lane < kLanes; ++lane)
      for (uint32_t word = 0; word < kColumns / 2; ++word) {
        const uint32_t row = lane / 4 + word % 4 / 2 * 8, column = word / 4 * 8 + lane % 4 * 2 + word % 2;
        Sum before;
        std::memcpy(&before, &sums[lane][word], sizeof before);
        Number sum = add ? static_cast<Number>(before) : Number{};
        for (uint32_t k = 0; k < kDepth; ++k) sum += a[row][k] * b[k][column];
        const Sum after = kShort ? static_cast<Sum>(short_sum(static_cast<double>(sum))) : static_cast<Sum>(sum);
        std::memcpy(&sums[lane][word], &after, sizeof after);
      }
  }
};

/// Fragments of mma.sync: kPer elements to a register.
template <uint32_t kPer, typename Put>
void unpack_a(const Block::GroupProduct& p, Put put) {
  for (uint32_t lane = 0; lane < kLanes; ++lane)
    for (uint32_t i = 0; i < 4 * kPer; ++i) {
      const uint32_t word = i / kPer, row = lane / 4 + word % 2 * 8, k = word / 2 * 4 * kPer + lane % 4 * kPer + i % kPer;
      put(row, k, p.a[lane][word] >> (i % kPer * (32 / kPer)));
    }
}

template <typename M>
void read_rows_of_depth(const Block::GroupProduct& p, M& m) {  // b row by row: [k][column]
  const Operand b(p.b_address);
  for (uint32_t k = 0; k < 16; ++k)
    for (uint32_t column = 0; column < 128; ++column) {
      const uint32_t at = b.along_rows(column, k);
      if (column % 8 == 0) check(at);
      m.b[k][column] = bf16(element<uint16_t>(at));
    }
}

void run_scores_bf16(const Block::GroupProduct& p, uint32_t (*sums)[64]) {
  static thread_local Matrices<float, double, 16, 64> m;
  unpack_a<2>(p, [&](uint32_t row, uint32_t k, uint32_t bits) { m.a[row][k] = bf16(static_cast<uint16_t>(bits)); });
  const Operand b(p.b_address);
  for (uint32_t column = 0; column < 64; ++column)
    for (uint32_t k = 0; k < 16; ++k) {
      const uint32_t at = b.along_depth(column, 2 * k);
      if (k % 8 == 0) check(at);
      m.b[k][column] = bf16(element<uint16_t>(at));
    }
  m.add_to(sums, p.add);
}

void run_scores_int8(const Block::GroupProduct& p, uint32_t (*sums)[64]) {
  static thread_local Matrices<int32_t, int32_t, 32, 64> m;
  unpack_a<4>(p, [&](uint32_t row, uint32_t k, uint32_t bits) { m.a[row][k] = static_cast<int8_t>(bits & 0xFFU); });
  const Operand b(p.b_address);
  for (uint32_t column = 0; column < 64; ++column)
    for (uint32_t k = 0; k < 32; ++k) {
      const uint32_t at = b.along_depth(column, k);
      if (k % 16 == 0) check(at);
      m.b[k][column] = element<int8_t>(at);
    }
  m.add_to(sums, p.add);
}

void run_values(const Block::GroupProduct& p, uint32_t (*sums)[64]) {
  static thread_local Matrices<float, double, 16, 128> m;
  unpack_a<2>(p, [&](uint32_t row, uint32_t k, uint32_t bits) { m.a[row][k] = bf16(static_cast<uint16_t>(bits)); });
  read_rows_of_depth(p, m);
  m.add_to(sums, p.add);
}

void run_values8(const Block::GroupProduct& p, uint32_t (*sums)[64]) {
  static thread_local Matrices<float, double, 32, 128, true> m;
  const auto number = [](uint32_t bits) { return static_cast<double>(f8e4m3_to_f32(static_cast<uint8_t>(bits))); };
  unpack_a<4>(p, [&](uint32_t row, uint32_t k, uint32_t bits) { m.a[row][k] = number(bits & 0xFFU); });
  const Operand b(p.b_address);
  for (uint32_t column = 0; column < 128; ++column)
    for (uint32_t k = 0; k < 32; ++k) {
      const uint32_t at = b.along_depth(column, k);
      if (k % 16 == 0) check(at);
      m.b[k][column] = number(element<uint8_t>(at));
    }
  m.add_to(sums, p.add);
}

void run_state(const Block::GroupProduct& p, uint32_t (*sums)[64]) {
  static thread_local Matrices<float, double, 16, 128> m;
  const Operand a(p.a_address);
  for (uint32_t k = 0; k < 16; ++k)
    for (uint32_t row = 0; row < 16; ++row) {
      const uint32_t at = a.along_rows(p.warp_row * 16 + row, k);
      if (row % 8 == 0) check(at);
      m.a[row][k] = bf16(element<uint16_t>(at));
    }
  read_rows_of_depth(p, m);
  m.add_to(sums, p.add);
}

}  // namespace

void group_product(GroupKind kind, uint32_t* sums, const uint32_t* a, uint64_t a_address, uint64_t b_address, bool add) {
  static constexpr struct {
    const char* name;
    void (*run)(const Block::GroupProduct&, uint32_t (*)[64]);
    uint32_t words;
  } kKinds[] = {{"group_scores (bf16)", run_scores_bf16, 32},
                {"group_scores (int8)", run_scores_int8, 32},
                {"group_values", run_values, 64},
                {"group_state", run_state, 64},
                {"group_values8", run_values8, 64}};
  const auto& known = kKinds[static_cast<size_t>(kind)];
  Block& block = Block::current();
  for (const uint64_t address : {a == nullptr ? a_address : b_address, b_address})
    if (const uint64_t mode = address >> 62U; mode != 1 && mode != 2)
      block.stop("a matrix descriptor without one of the two swizzles that tiles have");
  Block::GroupLane mine{sums, {known.name, known.run, {}, a_address, b_address, known.words, add, 0}};
  for (const uint32_t*& lane : mine.product.a) lane = nullptr;
  mine.product.a[block.thread() % kLanes] = a;
  block.group_product(mine);
}

}  // namespace sla2::emulator
