// SPDX-License-Identifier: Apache-2.0
// Hopper's asynchronous machinery under the emulator: products of warpgroups element by element out of tile images, bulk copies
// and their barriers; and each mistake with them, planted and noticed.
#include <catch2/catch.hpp>
#include <vector>

#include "core/core.h"
#include "kernels/cuda/hopper_ring.h"

namespace sla2::cuda {
namespace {

using Catch::Matchers::Contains;

struct Trial {
  float* out;
  const unsigned char* in;
  int32_t product, mistake;
};

std::string complaint(const char* kernel, const Trial& params, uint32_t threads, uint32_t shared) {
  for (uint64_t seed = 1; seed <= 3; ++seed) {
    emulator::EmulatedGpu gpu(90, 227 * 1024);
    gpu.set_seed(seed);
    try {
      gpu.launch({kernel, 1, 1, threads, shared, &params, sizeof params, nullptr});
    } catch (const Error& error) {
      return error.what();
    }
  }
  return "";
}

int a_value(int row, int k) { return (row * 7 + k * 3) % 11 - 5; }
int b_value(int k, int column) { return (k * 5 + column * 2) % 7 - 3; }
int product(int row, int column, int depth) {
  int sum = 0;
  for (int k = 0; k < depth; ++k) sum += a_value(row, k) * b_value(k, column);
  return sum;
}

enum Product : int32_t { kScoresBf16, kScoresInt8, kValues, kState, kValues8 };
enum Mistake : int32_t {
  kNone,
  kNoFence,
  kNoCommit,
  kNoWait,
  kStride,
  kSwizzle,
  kNotShown,
  kLeading,
  kAway,
  kPlainImage,
  kEarly
};
constexpr uint32_t kA = 0, kB = 16384, kShared = 32768;

void store_bf16_at(uint32_t at, int value) { shared_store<uint16_t>(at, f32_to_bf16(static_cast<float>(value))); }

/// Fragments of 16 rows of a from row `first`, depths from `k` on.
uint32_t byte_of(int value, bool e4m3) {
  return e4m3 ? uint32_t{kernels::f32_to_e4m3(static_cast<float>(value))} : static_cast<uint32_t>(value & 0xFF);
}
void fragments(int first, int k, bool bytes, uint32_t (&a)[4], bool e4m3 = false) {
  const auto lane = static_cast<int>(thread_index() % 32);
  for (int word = 0; word < 4; ++word) {
    a[word] = 0;
    for (int i = 0; i < (bytes ? 4 : 2); ++i) {
      const int row = first + lane / 4 + word % 2 * 8;
      const int depth = k + (bytes ? word / 2 * 16 + lane % 4 * 4 : word / 2 * 8 + lane % 4 * 2) + i;
      const int value = a_value(row, depth);
      a[word] |=
          bytes ? byte_of(value, e4m3) << (8 * i) : static_cast<uint32_t>(f32_to_bf16(static_cast<float>(value))) << (16 * i);
    }
  }
}

/// b, and a where it is in shared memory, as tile images; mistake kPlainImage: without the exchange of chunks.
void store_tiles(const Trial& p) {
  const auto place = [&](uint32_t row_bytes, uint32_t row, uint32_t byte) {
    return p.mistake == kPlainImage ? byte / 128 * kHopperPanel + row * 128 + byte % 128 : image_offset(64, row_bytes, row, byte);
  };
  const auto row = static_cast<int>(thread_index());
  if (row >= 64) return;
  for (int column = 0; column < 128; ++column) {
    const auto r = static_cast<uint32_t>(row), c = static_cast<uint32_t>(column);
    if (p.product == kScoresBf16) store_bf16_at(kB + place(256, r, 2 * c), b_value(column, row));
    if (p.product == kScoresInt8) {
      const int low = b_value(2 * column, row), high = b_value(2 * column + 1, row);
      if (column < 64)
        shared_store<uint16_t>(kB + place(128, r, 2 * c), static_cast<uint16_t>((low & 0xFF) | (high & 0xFF) << 8));
    }
    if (p.product == kValues8) {  // transposed: [channel][key], rows of 64 bytes
      const uint32_t at = p.mistake == kPlainImage ? c * 64 + r : image_offset(128, 64, c, r / 2 * 2);
      if (row % 2 == 0)
        shared_store<uint16_t>(
            kB + at, static_cast<uint16_t>(byte_of(b_value(row, column), true) | byte_of(b_value(row + 1, column), true) << 8U));
    }
    if (p.product == kValues || p.product == kState) store_bf16_at(kB + place(256, r, 2 * c), b_value(row, column));
    if (p.product == kState) store_bf16_at(kA + place(256, r, 2 * c), a_value(column % 64, row));
  }
}

template <typename T, int kParts>
void give(const Trial& p, const T (&d)[kParts][4]) {
  const uint32_t warp = thread_index() / 32, g = thread_index() % 32 / 4, t = thread_index() % 4;
  for (uint32_t n = 0; n < kParts; ++n)
    for (uint32_t i = 0; i < 4; ++i)
      p.out[(warp * 16 + g + i / 2 * 8) * kParts * 8 + n * 8 + 2 * t + i % 2] = static_cast<float>(d[n][i]);
}

template <typename T, int kParts, typename Step>
void group(const Trial& p, int steps, Step step) {
  T d[kParts][4] = {};
  if (p.mistake != kNoFence) group_fence();
  for (int k = 0; k < steps; ++k) step(d, k);
  if (p.mistake != kNoCommit) group_commit();
  if (p.mistake != kNoWait) group_wait<0>();
  give(p, d);
  if (p.mistake == kNoWait) group_wait<0>();
}

}  // namespace

SLA2_KERNEL(test_group_products, 128, 1, Trial) {
  store_tiles(p);
  if (p.mistake != kNotShown) show_to_engines();
  sync_threads();
  const int warp = static_cast<int>(thread_index() / 32);
  if (p.mistake == kAway && warp == 3) return;
  const uint32_t stride = p.mistake == kStride ? 512 : kHopperEight, leading = p.mistake == kLeading ? 4096 : kHopperPanel;
  const Swizzle swizzle = p.mistake == kSwizzle ? Swizzle::k64 : Swizzle::k128;
  uint32_t a[8][4];
  if (p.product == kScoresBf16)
    group<float, 8>(p, 8, [&](float(&d)[8][4], int k) {
      fragments(16 * warp, 16 * k, false, a[k]);
      const auto at = static_cast<uint32_t>(k);
      group_scores(d, a[k], group_operand(kB + at / 4 * kHopperPanel + at % 4 * 32, 0, stride, swizzle), k > 0);
    });
  if (p.product == kScoresInt8)
    group<int32_t, 8>(p, 4, [&](int32_t(&d)[8][4], int k) {
      fragments(16 * warp, 32 * k, true, a[k]);
      group_scores(d, a[k], group_operand(kB + static_cast<uint32_t>(k) * 32, 0, stride, swizzle), true);
    });
  if (p.product == kValues)
    group<float, 16>(p, 4, [&](float(&d)[16][4], int k) {
      fragments(16 * warp, 16 * k, false, a[k]);
      group_values(d, a[k], group_operand(kB + static_cast<uint32_t>(k) * kHopperSixteen, leading, stride, swizzle), k > 0);
    });
  if (p.product == kValues8)
    group<float, 16>(p, 2, [&](float(&d)[16][4], int k) {
      fragments(16 * warp, 32 * k, true, a[k], true);
      const Swizzle wanted = p.mistake == kSwizzle ? Swizzle::k128 : Swizzle::k64;
      group_values8(d, a[k], group_operand(kB + static_cast<uint32_t>(k) * 32, 0, p.mistake == kStride ? 1024 : 512, wanted),
                    k > 0);
    });
  if (p.product == kState)
    group<float, 16>(p, 4, [&](float(&d)[16][4], int k) {
      const uint32_t at = static_cast<uint32_t>(k) * kHopperSixteen;
      group_state(d, group_operand(kA + at, leading, stride, swizzle), group_operand(kB + at, leading, stride, swizzle), k > 0);
    });
}

TEST_CASE("products of warpgroups read tile images, and their mistakes are noticed") {
  struct Kind {
    Product product;
    int columns, depth;
  };
  for (const Kind& kind : {Kind{kScoresBf16, 64, 128}, Kind{kScoresInt8, 64, 128}, Kind{kValues, 128, 64}, Kind{kState, 128, 64},
                           Kind{kValues8, 128, 64}}) {
    INFO("product " << kind.product);
    std::vector<float> out(static_cast<size_t>(64 * kind.columns));
    const auto run = [&](Mistake mistake) {
      return complaint("test_group_products", {out.data(), nullptr, kind.product, mistake}, 128, kShared);
    };
    const auto wrong = [&] {
      int count = 0;
      for (int row = 0; row < 64; ++row)
        for (int column = 0; column < kind.columns; ++column)
          count += out[static_cast<size_t>(row * kind.columns + column)] == static_cast<float>(product(row, column, kind.depth))
                       ? 0
                       : 1;
      return count;
    };
    CHECK(run(kNone).empty());
    CHECK(wrong() == 0);
    CHECK_THAT(run(kNoFence), Contains("missing group_fence"));
    CHECK_THAT(run(kNoCommit), Contains("missing commit"));
    CHECK(run(kNoWait).empty());
    CHECK(wrong() == 64 * kind.columns);  // poison
    for (const Mistake mistake : {kStride, kSwizzle, kPlainImage}) {
      INFO("mistake " << mistake);
      CHECK((!run(mistake).empty() || wrong() > 100));
    }
    if (kind.product == kValues || kind.product == kState) CHECK((!run(kLeading).empty() || wrong() > 100));
    CHECK_THAT(run(kNotShown), Contains("missing fence"));
    CHECK_THAT(run(kAway), Contains("deadlock"));
  }
}

/// 0: right; 1: nobody waits; 2, 3: fewer, more bytes announced than copied; 4: the other parity; 5: a stage filled again before
/// its readers let it go; 6: barriers used before the block has met; 7: 24 bytes; 8: more arrivals than a phase has; 9: a
/// stretch nobody waits for.
SLA2_KERNEL(test_bulk_copies, 64, 1, Trial) {
  constexpr uint32_t kFull = 0, kEmpty = 8, kTile = 1024, kBytes = 1024;
  const uint32_t thread = thread_index();
  const int m = p.mistake;
  if (thread == 0) arrivals_init(kFull, 1), arrivals_init(kEmpty, 1), arrivals_made();
  if (m != 6) sync_threads();
  if (thread == 32) {
    for (uint32_t round = 0; round < 3; ++round) {
      if (m != 5) await_phase(kEmpty, (round + 1) % 2);
      arrive_announcing(kFull, m == 2 ? kBytes - 16 : m == 3 ? kBytes + 16 : kBytes);
      copy_bulk(kTile, p.in + round * kBytes, m == 7 ? 24 : kBytes, kFull);
      if (m == 8) arrive(kFull), arrive(kFull);
    }
  }
  if (thread < 32)
    for (uint32_t round = 0; round < 3; ++round) {
      if (m != 1 && !(m == 9 && round == 2)) await_phase(kFull, m == 4 ? (round + 1) % 2 : round % 2);
      if (!(m == 9 && round == 2)) p.out[round * 32 + thread] = shared_load<float>(kTile + thread * 4);
      sync_warp();
      if (thread == 0) arrive(kEmpty);
    }
}

TEST_CASE("bulk copies arrive at barriers, and their mistakes are noticed") {
  std::vector<float> out(96), in(768);
  for (size_t i = 0; i < in.size(); ++i) in[i] = static_cast<float>(i);
  const auto run = [&](int mistake) {
    return complaint("test_bulk_copies", {out.data(), reinterpret_cast<const unsigned char*>(in.data()), 0, mistake}, 64, 4096);
  };
  CHECK(run(0).empty());
  for (size_t i = 0; i < 96; ++i) CHECK(out[i] == static_cast<float>(i / 32 * 256 + i % 32));
  CHECK_THAT(run(1), Contains("missing wait") || Contains("no barrier between"));
  CHECK_THAT(run(2), Contains("nobody had announced"));
  CHECK_THAT(run(3), Contains("16 bytes are missing"));
  CHECK_THAT(run(4), Contains("missing wait") || Contains("deadlock") || Contains("no barrier between"));
  CHECK_THAT(run(5), Contains("race") || Contains("announced") || Contains("all 1 of the phase"));
  CHECK_THAT(run(6), Contains("race") || Contains("nobody made"));
  CHECK_THAT(run(7), Contains("multiples of 16"));
  CHECK_THAT(run(8), Contains("all 1 of the phase") || Contains("missing"));
  CHECK_THAT(run(9), Contains("missing wait") || Contains("deadlock"));
}

/// The ring of the kernels: more stages than it has, in order; mistake 1: a warp lets a stage go before it has read it.
SLA2_KERNEL(test_ring, 384, 1, Trial) {
  constexpr int kFills = 9;
  Ring ring{0, 1024};
  if (thread_index() == 0) ring.make();
  sync_threads();
  if (thread_index() == kHopperConsumers)
    for (int i = 0; i < kFills; ++i) ring.fill(p.in + i * 32, 16, p.in + i * 32 + 16, 16);
  if (thread_index() >= kHopperConsumers) return;
  for (int i = 0; i < kFills; ++i, ring.next()) {
    ring.wait();
    if (p.mistake == 1) ring.release();
    const float x = shared_load<float>(ring.tile(0)) + shared_load<float>(ring.tile(1));
    if (thread_index() % 32 == 0) p.out[i * 8 + static_cast<int>(thread_index() / 32)] = x;
    sync_warp();
    if (p.mistake != 1) ring.release();
  }
}

TEST_CASE("a ring of stages keeps its order and notices who lets go too early") {
  std::vector<float> out(72), in(72);
  for (size_t i = 0; i < in.size(); ++i) in[i] = static_cast<float>(i);
  const auto run = [&](int mistake) {
    return complaint("test_ring", {out.data(), reinterpret_cast<const unsigned char*>(in.data()), 0, mistake}, 384,
                     1024 + kHopperStages * 2 * kHopperTile);
  };
  CHECK(run(0).empty());
  for (size_t i = 0; i < 72; ++i) CHECK(out[i] == static_cast<float>(i / 8 * 8 + i / 8 * 8 + 4));
  CHECK_THAT(run(1), Contains("race") || Contains("missing wait"));
}

}  // namespace sla2::cuda
