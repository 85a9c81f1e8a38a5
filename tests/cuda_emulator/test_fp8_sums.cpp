// SPDX-License-Identifier: Apache-2.0
// P·V in e4m3 on the CPU against the CUDA kernels it is a model of, under the emulator: not only close to the truth, as
// sla2_check asks of each, but the same numbers. Q and K are bytes and V starts on e4m3's own scale, so that both sides quantise
// without a choice; what is left is fp32's last digits, and now and then a weight that these put on the other side of the middle
// between two e4m3 numbers, which moves its row.
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

#include "attention/attention.h"
#include "core/core.h"
#include "cuda_emulator/instructions.h"
#include "cuda_emulator/kernels_table.h"

namespace sla2::attention {
namespace {

constexpr int64_t kQueries = 150, kKeys = 330;  // the last query block, key block and tile are ragged

/// Rows of whole numbers, the largest 127; keys come in pairs of opposite sign, so that their mean is zero; each channel of V
/// holds 448 or -448.
struct Inputs {
  explicit Inputs(int64_t dim) : q(size(kQueries, dim)), k(size(kKeys, dim)), v(size(kKeys, dim)) {
    std::mt19937 random(static_cast<unsigned>(dim));
    std::uniform_int_distribution<int> byte(-126, 126);
    std::normal_distribution<float> normal(20, 90);
    for (float& x : q) x = static_cast<float>(byte(random));
    for (size_t i = 0; i < k.size() / 2; ++i) k[i] = static_cast<float>(byte(random)), k[i + k.size() / 2] = -k[i];
    for (int64_t t = 0; t < kKeys / 2; ++t) k[size(t, dim)] = 127, k[size(t, dim) + k.size() / 2] = -127;
    for (int64_t t = 0; t < kQueries; ++t) q[size(t, dim) + static_cast<size_t>(t % dim)] = 127;
    for (float& x : v) x = std::clamp(normal(random), -448.0F, 448.0F);
    for (int64_t c = 0; c < dim; ++c) v[size(c % kKeys, dim) + static_cast<size_t>(c)] = c % 2 == 0 ? 448 : -448;
  }
  static size_t size(int64_t rows, int64_t dim) { return static_cast<size_t>(rows * dim); }
  std::vector<float> q, k, v;
};

std::vector<float> forward_with(Plan& plan, const Inputs& in) {
  const int64_t dim = plan.config().head_dim;
  std::vector<float> out(in.q.size());
  const auto rows = [&](const std::vector<float>& x, int64_t n) { return Operand{x.data(), DType::kF32, n * dim, n * dim, dim}; };
  AlignedBuffer<std::byte> workspace(plan.workspace_bytes());
  plan.forward(rows(in.q, kQueries), rows(in.k, kKeys), rows(in.v, kKeys), nullptr, workspace.data(),
               {out.data(), DType::kF32, kQueries * dim, kQueries * dim, dim});
  return out;
}

/// Of the rows: how many are equal but for the rounding of fp32 sums over these keys.
double share_equal(const std::vector<float>& x, const std::vector<float>& y, int64_t dim) {
  constexpr float kRounding = 1e-6F;
  int64_t equal = 0;
  for (size_t first = 0; first < x.size(); first += static_cast<size_t>(dim)) {
    float worst = 0, largest = 0;
    for (size_t i = first; i < first + static_cast<size_t>(dim); ++i)
      worst = std::max(worst, std::abs(x[i] - y[i])), largest = std::max(largest, std::abs(y[i]));
    equal += worst <= kRounding * largest ? 1 : 0;
  }
  return static_cast<double>(equal) / static_cast<double>(x.size() / static_cast<size_t>(dim));
}

/// fp32 sums where the GPU would take fp16 (cuda.md); taken back at the end.
struct Fp32Sums {
  Fp32Sums() { setenv("SLA2_FP8_SUMS", "32", 1); }
  ~Fp32Sums() {
    unsetenv("SLA2_FP8_SUMS");
    emulator::set_short_sums(emulator::ShortSums::kCutOff);
  }
};

}  // namespace

TEST_CASE("P·V in e4m3: the CPU's model gives the CUDA kernels' numbers") {
  if (active_isa() < Isa::kAvx512Bf16) {
    WARN("skipped: 8 bits, and with them P·V in e4m3, run on avx512_bf16 only");
    return;
  }
  const Fp32Sums sums;
  struct Case {
    int architecture;
    int64_t dim;
    Mode mode;
  };
  for (const Case& c : {Case{90, 128, Mode::kFull}, Case{90, 128, Mode::kSparseOnly}, Case{89, 64, Mode::kFull},
                        Case{89, 64, Mode::kSparseOnly}}) {
    const Inputs in(c.dim);
    Config config;
    config.mode = c.mode, config.sparsity = 0.5;
    config.heads = 1, config.query_tokens = kQueries, config.key_tokens = kKeys, config.head_dim = c.dim;
    config.bits = 8, config.fp8_values = true;
    config.softmax_scale =
        1.0 / (64 * 64 * std::sqrt(static_cast<double>(c.dim)));  // logits of a few units: weights all over e4m3
    emulator::EmulatedGpu gpu(c.architecture, (c.architecture == 90 ? 227 : 99) * 1024);
    const auto on_gpu = [&](emulator::ShortSums kind) {
      emulator::set_short_sums(kind);
      return forward_with(*Plan::create(config, gpu), in);
    };
    const std::vector<float> model = forward_with(*Plan::create(config), in);
    const double same = share_equal(model, on_gpu(emulator::ShortSums::kCutOff), c.dim);
    const double exact = share_equal(model, on_gpu(emulator::ShortSums::kExact), c.dim);
    INFO("architecture " << c.architecture << ", mode " << static_cast<int>(c.mode) << ": equal rows " << same
                         << ", with sums that lose nothing " << exact);
    CHECK(same >= 0.9);
    CHECK(exact <= 0.1);  // the sums' lost digits are seen
  }
}

}  // namespace sla2::attention
