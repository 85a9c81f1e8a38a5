// SPDX-License-Identifier: Apache-2.0
#include "trials.h"

#include <bit>
#include <random>

#include "core/core.h"
#include "kernels/cuda/trial.h"
#include "kernels/e4m3.h"

namespace sla2::gpu_check {
namespace {

using cuda::kTrialIn;
using cuda::kTrialOut;
using Words = std::vector<uint32_t>;

constexpr int kLaneWords = 6, kOperandA = 4;

struct Kind {
  cuda::Trial trial;
  const char* name;
  int bits;  ///< of an element
};
constexpr Kind kKinds[] = {
    {cuda::kTrialBf16, "mma.m16n8k16 bf16", 16}, {cuda::kTrialInt8, "mma.m16n8k32 s8", 8},
    {cuda::kTrialE4m3, "mma.m16n8k32 e4m3", 8},  {cuda::kTrialE4m3Half, "mma.m16n8k32 e4m3, fp16 sums", 8},
    {cuda::kTrialMatrices, "ldmatrix.x4", 16},   {cuda::kTrialMatricesTransposed, "ldmatrix.x4.trans", 16}};

uint32_t element(cuda::Trial trial, int value) {
  if (trial == cuda::kTrialBf16) return f32_to_bf16(static_cast<float>(value));
  if (trial == cuda::kTrialInt8) return static_cast<uint32_t>(value) & 0xFFU;
  return kernels::f32_to_e4m3(static_cast<float>(value));
}

/// Slot `slot` of an operand that has `per_lane` elements in each lane.
void put(uint32_t* words, const Kind& kind, int first, int per_lane, int slot, int value) {
  const int per_word = 32 / kind.bits, lane = slot / per_lane, i = slot % per_lane;
  words[lane * kLaneWords + first + i / per_word] |= element(kind.trial, value) << (i % per_word * kind.bits);
}

/// What B holds: numbers of 1 to 16 that e4m3 has too; with two digits every slot is told from every other.
int digit(int slot, int which) { return 1 + (which == 0 ? slot % 16 : slot / 16 % 16); }

/// Every slot of A alone, twice; then random cases.
Words product_cases(const Kind& kind) {
  const int per_word = 32 / kind.bits, in_a = kOperandA * per_word, in_b = 2 * per_word;
  constexpr int kRandom = 16;
  Words in(static_cast<size_t>(32 * in_a * 2 + kRandom) * kTrialIn, 0);
  uint32_t* at = in.data();
  for (int which = 0; which < 2; ++which)
    for (int slot = 0; slot < 32 * in_a; ++slot, at += kTrialIn) {
      put(at, kind, 0, in_a, slot, 1);
      for (int b = 0; b < 32 * in_b; ++b) put(at, kind, kOperandA, in_b, b, digit(b, which));
    }
  std::mt19937 random(7);
  for (int i = 0; i < kRandom; ++i, at += kTrialIn) {
    for (int slot = 0; slot < 32 * in_a; ++slot) put(at, kind, 0, in_a, slot, static_cast<int>(random() % 7) - 3);
    for (int slot = 0; slot < 32 * in_b; ++slot) put(at, kind, kOperandA, in_b, slot, static_cast<int>(random() % 7) - 3);
  }
  return in;
}

Words matrix_cases() {
  Words in(kTrialIn, 0);
  for (uint32_t i = 0; i < 128; ++i) in[i] = 2 * i | (2 * i + 1) << 16U;
  return in;
}

Words launch(check::TestGpu& gpu, cuda::Trial trial, const Words& in) {
  const size_t cases = in.size() / kTrialIn;
  Words out(cases * kTrialOut, 0xFFFFFFFFU);
  check::Mirror mirror(&gpu);
  const cuda::TrialParams params{mirror.at(in.data(), in.data(), in.size() * 4),
                                 mirror.at(out.data(), out.data(), out.size() * 4), trial};
  gpu.prepare("sla2_trial", 512);
  gpu.launch({"sla2_trial", static_cast<uint32_t>(cases), 1, 32, 512, &params, sizeof params, nullptr});
  mirror.fetch();
  return out;
}

/// 1 + 2^-n for n up to `most`, as two products: the largest n that is not lost.
int bits_of_sums(check::TestGpu& gpu, const Kind& kind) {
  constexpr int kMost = 18;  // 2^-9 is the least e4m3
  Words in(static_cast<size_t>(kMost) * kTrialIn, 0);
  const auto power = [&](int n) {
    const float x = std::ldexp(1.0F, -n);
    return kind.trial == cuda::kTrialBf16 ? uint32_t{f32_to_bf16(x)} : uint32_t{kernels::f32_to_e4m3(x)};
  };
  for (int n = 1; n <= kMost; ++n) {
    uint32_t* const lane0 = &in[static_cast<size_t>(n - 1) * kTrialIn];  // row 0 of A, column 0 of B, depths 0 and 1
    const auto shift = static_cast<uint32_t>(kind.bits);
    lane0[0] = power(0) | power(n / 2) << shift;
    lane0[kOperandA] = power(0) | power(n - n / 2) << shift;
  }
  const Words out = launch(gpu, kind.trial, in);
  int kept = 0;
  for (int n = 1; n <= kMost; ++n) {
    const uint32_t word = out[static_cast<size_t>(n - 1) * kTrialOut];
    const float sum = kind.trial == cuda::kTrialE4m3Half ? f16_to_f32(static_cast<uint16_t>(word)) : std::bit_cast<float>(word);
    if (sum > 1) kept = n;
  }
  return kept;
}

/// Products of warpgroups on small random integers, which are exact in every sum: as the device has them, word by word.
struct GroupKind {
  cuda::GroupTrial trial;
  const char* name;
  bool bytes;
};
constexpr GroupKind kGroups[] = {{cuda::kTrialScoresBf16, "wgmma.m64n64k16 bf16, right along depth", false},
                                 {cuda::kTrialScoresInt8, "wgmma.m64n64k32 s8, right along depth", true},
                                 {cuda::kTrialValues, "wgmma.m64n128k16 bf16, right across depth", false},
                                 {cuda::kTrialState, "wgmma.m64n128k16 bf16, both across depth", false}};

Words launch_group(check::TestGpu& gpu, cuda::GroupTrial trial, const Words& tiles, const Words& left) {
  const size_t cases = tiles.size() * 4 / (2 * cuda::kGroupTile);
  Words out(cases * 128 * 64, 0);
  check::Mirror mirror(&gpu);
  const cuda::GroupTrialParams params{
      reinterpret_cast<const unsigned char*>(mirror.at(tiles.data(), tiles.data(), tiles.size() * 4)),
      mirror.at(left.data(), left.data(), left.size() * 4), mirror.at(out.data(), out.data(), out.size() * 4), trial};
  gpu.prepare("sla2_hopper_trial", cuda::kGroupTrialBytes);
  gpu.launch(
      {"sla2_hopper_trial", static_cast<uint32_t>(cases), 1, 128, cuda::kGroupTrialBytes, &params, sizeof params, nullptr});
  mirror.fetch();
  return out;
}

TrialResult run_group(check::TestGpu& gpu, const GroupKind& kind, bool planted) {
  constexpr size_t kCases = 3;
  std::mt19937 random(11);
  const auto word = [&] {
    const auto number = [&] { return static_cast<int>(random() % 7) - 3; };
    if (kind.bytes) {
      uint32_t bits = 0;
      for (int i = 0; i < 4; ++i) bits = bits << 8U | (static_cast<uint32_t>(number()) & 0xFFU);
      return bits;
    }
    const uint32_t low = f32_to_bf16(static_cast<float>(number()));
    return low | static_cast<uint32_t>(f32_to_bf16(static_cast<float>(number()))) << 16U;
  };
  Words tiles(kCases * 2 * cuda::kGroupTile / 4), left(kCases * 128 * cuda::kGroupSteps * 4);
  for (uint32_t& x : tiles) x = word();
  for (uint32_t& x : left) x = word();
  Words theirs = tiles;
  if (planted) std::swap(theirs[cuda::kGroupTile / 4], theirs[cuda::kGroupTile / 4 + 4]);  // two chunks of the right-hand side
  const std::shared_ptr<check::TestGpu> table = check::emulated_gpu(90);
  const Words measured = launch_group(gpu, kind.trial, theirs, left), expected = launch_group(*table, kind.trial, tiles, left);
  TrialResult r{kind.name, static_cast<int>(kCases), 0, "", 0, true};
  for (size_t i = 0; i < measured.size(); ++i) {
    if (measured[i] == expected[i]) continue;
    if (++r.different == 1)
      r.first = fmt::format("case {}, thread {} (lane), word {}: {:#010x} on the device, {:#010x} by the table", i / (128 * 64),
                            i / 64 % 128, i % 64, measured[i], expected[i]);
  }
  return r;
}

}  // namespace

std::vector<TrialResult> run_trials(check::TestGpu& gpu, bool planted) {
  const int architecture = gpu.architecture();
  const bool e4m3 = architecture == 89 || architecture >= 120;
  std::vector<TrialResult> results;
  for (const Kind& kind : kKinds) {
    TrialResult r{kind.name, 0, 0, "", 0, true};
    if ((kind.trial == cuda::kTrialE4m3 || kind.trial == cuda::kTrialE4m3Half) && !e4m3) {
      r.tried = false, r.first = "this architecture's mma.sync has no e4m3 products of its own";
      results.push_back(r);
      continue;
    }
    const bool product = kind.trial < cuda::kTrialMatrices;
    const Words in = product ? product_cases(kind) : matrix_cases();
    Words theirs = in;
    if (planted)
      for (size_t at = 0; at < in.size(); at += kTrialIn) std::swap(theirs[at], theirs[at + kLaneWords]);
    const std::shared_ptr<check::TestGpu> table = check::emulated_gpu(89);
    const Words measured = launch(gpu, kind.trial, theirs), expected = launch(*table, kind.trial, in);
    r.cases = static_cast<int>(in.size() / kTrialIn);
    for (size_t i = 0; i < measured.size(); ++i) {
      if (measured[i] == expected[i]) continue;
      if (++r.different == 1)
        r.first = fmt::format("case {}, lane {}, register {}: {:#010x} on the device, {:#010x} by the table", i / kTrialOut,
                              i % kTrialOut / 4, i % 4, measured[i], expected[i]);
    }
    if (product && kind.trial != cuda::kTrialInt8) r.sum_bits = bits_of_sums(gpu, kind);
    results.push_back(r);
  }
  if (architecture == 90)
    for (const GroupKind& kind : kGroups) results.push_back(run_group(gpu, kind, planted));
  return results;
}

}  // namespace sla2::gpu_check
