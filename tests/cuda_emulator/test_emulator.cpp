// SPDX-License-Identifier: Apache-2.0
// The emulator is itself tested: fragment maps element by element against the formulas printed in the PTX ISA, and the mistakes
// it exists for, each planted once.
#include <catch2/catch.hpp>
#include <vector>

#include "core/core.h"
#include "kernels/cuda/arch.h"
#include "kernels/cuda/fragments.h"

namespace sla2::cuda {
namespace {

using Catch::Matchers::Contains;

struct Numbers {
  float* out;
  const unsigned char* in;
  int32_t variant;
};

/// What a launch complains of; empty: nothing.
std::string complaint(const char* kernel, const Numbers& params, uint32_t threads = 64, uint32_t shared = 4096) {
  for (uint64_t seed = 1; seed <= 4; ++seed) {
    emulator::EmulatedGpu gpu(89, 100 * 1024);
    gpu.set_seed(seed);
    try {
      gpu.launch({kernel, 1, 1, threads, shared, &params, sizeof params, nullptr});
    } catch (const Error& error) {
      return error.what();
    }
  }
  return "";
}

// PTX ISA 8.x, figures "m16n8k16 .bf16" and "m16n8k32 .s8/.e4m3": row and column of element ai, bi, ci of a lane.
struct At {
  int row, column;
};
At a_of_k16(int lane, int i) {
  const int group = lane >> 2, in_group = lane % 4;
  return {(i >= 0 && i < 2) || (i >= 4 && i < 6) ? group : group + 8,
          i < 4 ? in_group * 2 + (i & 1) : in_group * 2 + (i & 1) + 8};
}
At b_of_k16(int lane, int i) { return {i < 2 ? lane % 4 * 2 + (i & 1) : lane % 4 * 2 + (i & 1) + 8, lane >> 2}; }
At a_of_k32(int lane, int i) {
  const int group = lane >> 2, in_group = lane % 4;
  return {(i >= 0 && i < 4) || (i >= 8 && i < 12) ? group : group + 8,
          i < 8 ? in_group * 4 + (i & 3) : in_group * 4 + (i & 3) + 16};
}
At b_of_k32(int lane, int i) { return {i < 4 ? lane % 4 * 4 + (i & 3) : lane % 4 * 4 + (i & 3) + 16, lane >> 2}; }
At c_of(int lane, int i) { return {i < 2 ? lane >> 2 : (lane >> 2) + 8, lane % 4 * 2 + (i & 1)}; }

/// Element (row, column) of small whole matrices whose products differ everywhere.
int a_value(int row, int k) { return (row * 7 + k * 3) % 11 - 5; }
int b_value(int k, int column) { return (k * 5 + column * 2) % 7 - 3; }
int product(int row, int column, int depth) {
  int sum = 0;
  for (int k = 0; k < depth; ++k) sum += a_value(row, k) * b_value(k, column);
  return sum;
}

}  // namespace

SLA2_KERNEL(test_products, 32, 1, Numbers) {
  const int lane = static_cast<int>(thread_index());
  uint32_t a[4] = {}, b[2] = {};
  float d[4] = {};
  if (p.variant == 0) {
    for (int i = 0; i < 8; ++i) {
      const At at = a_of_k16(lane, i);
      a[i / 2] |= static_cast<uint32_t>(f32_to_bf16(static_cast<float>(a_value(at.row, at.column)))) << (i % 2 * 16);
    }
    for (int i = 0; i < 4; ++i) {
      const At at = b_of_k16(lane, i);
      b[i / 2] |= static_cast<uint32_t>(f32_to_bf16(static_cast<float>(b_value(at.row, at.column)))) << (i % 2 * 16);
    }
    multiply_bf16(d, a, b[0], b[1]);
  } else {
    const auto byte = [&](int x) {
      return p.variant == 1 ? static_cast<uint32_t>(x & 0xFF)
                            : static_cast<uint32_t>(kernels::f32_to_e4m3(static_cast<float>(x)));
    };
    for (int i = 0; i < 16; ++i) a[i / 4] |= byte(a_value(a_of_k32(lane, i).row, a_of_k32(lane, i).column)) << (i % 4 * 8);
    for (int i = 0; i < 8; ++i) b[i / 4] |= byte(b_value(b_of_k32(lane, i).row, b_of_k32(lane, i).column)) << (i % 4 * 8);
    int32_t sums[4] = {};
    uint32_t halves[2] = {};
    if (p.variant == 1) multiply_int8(sums, a, b[0], b[1]);
    if (p.variant == 2) multiply_e4m3(d, a, b[0], b[1]);
    if (p.variant == 3) multiply_e4m3(halves, a, b[0], b[1]);
    for (int i = 0; i < 4 && p.variant == 1; ++i) d[i] = static_cast<float>(sums[i]);
    for (uint32_t i = 0; i < 4 && p.variant == 3; ++i) d[i] = from_f16(static_cast<uint16_t>(halves[i / 2] >> i % 2 * 16));
  }
  for (int i = 0; i < 4; ++i) p.out[c_of(lane, i).row * 8 + c_of(lane, i).column] = d[i];
}

TEST_CASE("products have the PTX ISA's fragment maps") {
  for (const int variant : {0, 1, 2, 3}) {
    std::vector<float> out(16 * 8, -1000);
    REQUIRE(complaint("test_products", {out.data(), nullptr, variant}, 32).empty());
    for (int row = 0; row < 16; ++row)
      for (int column = 0; column < 8; ++column) {
        INFO("variant " << variant << ", row " << row << ", column " << column);
        CHECK(out[static_cast<size_t>(row * 8 + column)] == static_cast<float>(product(row, column, variant == 0 ? 16 : 32)));
      }
  }
}

/// Rows of 8 numbers; PTX ISA: thread T of ldmatrix holds elements 2·(T % 4), + 1 of row T / 4 (transposed: of column T / 4).
SLA2_KERNEL(test_matrices, 32, 1, Numbers) {
  const uint32_t lane = thread_index();
  for (uint32_t i = 0; i < 4; ++i) {
    const uint32_t row = lane, pair = i;  // 32 rows of 8 in all
    shared_store<uint32_t>(row * 16 + pair * 4, (row * 8 + 2 * pair) | (row * 8 + 2 * pair + 1) << 16U);
  }
  sync_warp();
  uint32_t r[4];
  if (p.variant == 0)
    load_matrices(lane * 16, r);
  else
    load_matrices_transposed(lane * 16, r);
  for (uint32_t i = 0; i < 4; ++i) {
    p.out[(lane * 4 + i) * 2] = static_cast<float>(r[i] & 0xFFFF);
    p.out[(lane * 4 + i) * 2 + 1] = static_cast<float>(r[i] >> 16U);
  }
}

TEST_CASE("load_matrices hands out rows, or columns when transposed") {
  for (const int variant : {0, 1}) {
    std::vector<float> out(32 * 4 * 2);
    REQUIRE(complaint("test_matrices", {out.data(), nullptr, variant}, 32).empty());
    for (int lane = 0; lane < 32; ++lane)
      for (int matrix = 0; matrix < 4; ++matrix)
        for (int i = 0; i < 2; ++i) {
          const int major = lane / 4, minor = lane % 4 * 2 + i;
          const int expected = matrix * 64 + (variant == 0 ? major * 8 + minor : minor * 8 + major);
          CHECK(out[static_cast<size_t>((lane * 4 + matrix) * 2 + i)] == static_cast<float>(expected));
        }
  }
}

/// 0: right; 1: no wait; 2: wait, but no barrier before others read; 3: no barrier before the next copy overwrites what is read.
SLA2_KERNEL(test_copies, 64, 1, Numbers) {
  const uint32_t thread = thread_index(), other = (thread + 32) % 64;
  for (int round = 0; round < 2; ++round) {
    copy_async_16(thread * 16, p.in + thread * 16);
    copy_async_commit();
    if (p.variant != 1) copy_async_wait<0>();
    if (p.variant != 2) sync_threads();
    p.out[thread] = shared_load<float>(other * 16);
    if (p.variant != 3) sync_threads();
  }
  copy_async_wait<0>();
}

TEST_CASE("a missing wait and missing barriers are caught") {
  std::vector<float> out(64), in(256, 1.0F);
  const auto run = [&](int variant) {
    return complaint("test_copies", {out.data(), reinterpret_cast<const unsigned char*>(in.data()), variant});
  };
  CHECK(run(0).empty());
  CHECK(out == std::vector<float>(64, 1.0F));
  CHECK_THAT(run(1), Contains("missing wait"));
  CHECK_THAT(run(2), Contains("barrier between") || Contains("missing wait"));
  CHECK_THAT(run(3), Contains("race"));
}

/// 1: half a warp shuffles; 2: half a warp does something else; 3: one warp of two stays away from a barrier; 4: lanes exchange
/// through shared memory without sync_warp; 5: past the end of shared memory; 6: a copy nobody waits for.
SLA2_KERNEL(test_mistakes, 64, 1, Numbers) {
  const uint32_t thread = thread_index();
  if (p.variant == 1 && thread % 32 < 16) p.out[thread] = shuffle_xor(1.0F, 1);
  if (p.variant == 2) p.out[thread] = thread % 32 < 16 ? shuffle_xor(1.0F, 1) : static_cast<float>(ballot(true));
  if (p.variant == 3 && thread < 32) sync_threads();
  if (p.variant == 4) {
    shared_store<float>(thread * 4, 1);
    p.out[thread] = shared_load<float>((thread ^ 1U) * 4);
  }
  if (p.variant == 5) p.out[thread] = shared_load<float>(4096);
  if (p.variant == 6) copy_async_16(thread * 16, p.in + thread * 16), copy_async_commit();
}

TEST_CASE("divergence, deadlock, races inside a warp and stray accesses are caught") {
  std::vector<float> out(64), in(256);
  const auto run = [&](int variant) {
    return complaint("test_mistakes", {out.data(), reinterpret_cast<const unsigned char*>(in.data()), variant});
  };
  CHECK(run(0).empty());
  CHECK_THAT(run(1), Contains("deadlock"));
  CHECK_THAT(run(2), Contains("divergence"));
  CHECK_THAT(run(3), Contains("deadlock"));
  CHECK_THAT(run(4), Contains("sync_warp"));
  CHECK_THAT(run(5), Contains("shared memory"));
  CHECK_THAT(run(6), Contains("missing wait"));
}

/// q · kᵀ of 16 by 16 by 64 in bf16 through a tile image; 1: the tile was written without the exchange of chunks.
SLA2_KERNEL(test_swizzle, 32, 1, Numbers) {
  const uint32_t lane = thread_index();
  for (uint32_t row = 0; row < 16; ++row) {
    const uint32_t bits = pack_bf16(static_cast<float>(b_value(static_cast<int>(2 * lane), static_cast<int>(row))),
                                    static_cast<float>(b_value(static_cast<int>(2 * lane + 1), static_cast<int>(row))));
    shared_store<uint32_t>(p.variant == 0 ? image_offset(16, 128, row, lane * 4) : row * 128 + lane * 4, bits);
  }
  sync_warp();
  float d[2][4] = {};
  for (uint32_t step = 0; step < 4; ++step) {
    uint32_t a[4] = {}, b[4];
    for (int i = 0; i < 8; ++i) {
      const At at = a_of_k16(static_cast<int>(lane), i);
      const int k = at.column + static_cast<int>(step) * 16;
      a[i / 2] |= static_cast<uint32_t>(f32_to_bf16(static_cast<float>(a_value(at.row, k)))) << (i % 2 * 16);
    }
    load_columns<16, 128>(0, 0, step * 2, b);
    multiply_bf16(d[0], a, b[0], b[1]);
    multiply_bf16(d[1], a, b[2], b[3]);
  }
  for (int n = 0; n < 2; ++n)
    for (int i = 0; i < 4; ++i) {
      const At at = c_of(static_cast<int>(lane), i);
      p.out[at.row * 16 + n * 8 + at.column] = d[n][i];
    }
}

TEST_CASE("a wrong swizzle gives wrong products") {
  const auto wrong = [](int variant) {
    std::vector<float> out(256);
    REQUIRE(complaint("test_swizzle", {out.data(), nullptr, variant}, 32).empty());
    int count = 0;
    for (int row = 0; row < 16; ++row)
      for (int column = 0; column < 16; ++column)
        count += out[static_cast<size_t>(row * 16 + column)] == static_cast<float>(product(row, column, 64)) ? 0 : 1;
    return count;
  };
  CHECK(wrong(0) == 0);
  CHECK(wrong(1) > 100);
}

TEST_CASE("short sums of e4m3 products lose what fp32 keeps") {
  // 448 · 448 + 2^-9 · 448 needs more than 13 bits behind the leading one.
  CHECK(kernels::f32_to_e4m3(448.0F) == 0x7E);
  emulator::set_short_sums(emulator::ShortSums::kExact);
  std::vector<float> exact(128), cut(128);
  REQUIRE(complaint("test_products", {exact.data(), nullptr, 2}, 32).empty());
  emulator::set_short_sums(emulator::ShortSums::kCutOff);
  REQUIRE(complaint("test_products", {cut.data(), nullptr, 2}, 32).empty());
  CHECK(exact == cut);  // small integers fit either way
}

/// Weights of 448 times `variant` / 4, `in` of the two steps of a tile.
SLA2_KERNEL(test_half_sums, 32, 1, Numbers) {
  const uint32_t value = kernels::f32_to_e4m3(static_cast<float>(p.variant) / 4), weight = kernels::f32_to_e4m3(448.0F);
  const uint32_t a[4] = {weight * 0x01010101U, weight * 0x01010101U, weight * 0x01010101U, weight * 0x01010101U};
  uint32_t d[2] = {};
  for (int step = 0; step < 2; ++step) multiply_e4m3(d, a, value * 0x01010101U, value * 0x01010101U);
  p.out[thread_index()] = from_f16(static_cast<uint16_t>(d[0]));
}

TEST_CASE("fp16 sums hold a tile of the largest weights and values, and no more") {
  std::vector<float> out(32);
  CHECK(fp8_values_top(Products::kInt8Fp8Half) == 2.25F);
  REQUIRE(complaint("test_half_sums", {out.data(), nullptr, 9}, 32).empty());
  CHECK(out == std::vector<float>(32, 64512));
  REQUIRE(complaint("test_half_sums", {out.data(), nullptr, 10}, 32).empty());
  CHECK(std::isinf(out[0]));
}

}  // namespace sla2::cuda
