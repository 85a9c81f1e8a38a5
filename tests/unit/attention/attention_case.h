// SPDX-License-Identifier: Apache-2.0
// One attention problem on one head or several, run through the plan with guarded buffers.
#pragma once
#include <catch2/catch.hpp>
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "attention/attention.h"
#include "oracle/attention_oracle.h"

namespace sla2::test {

inline std::vector<float> normal(int64_t count, uint32_t seed, float spread = 1, float offset = 0) {
  std::mt19937 engine(seed);
  std::normal_distribution<float> distribution(offset, spread);
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = distribution(engine);
  return values;
}

inline attention::Config config_of(const oracle::Problem& p) {
  attention::Config c;
  c.mode = p.sparse ? attention::Mode::kSla2 : attention::Mode::kFull;
  c.mix = p.mix_const ? attention::Mix::kConst : attention::Mix::kHeadAffineLse;
  c.heads = 1;
  c.query_tokens = p.queries;
  c.key_tokens = p.keys;
  c.head_dim = p.dim;
  c.sparsity = p.sparsity;
  c.softmax_scale = p.scale;
  c.block_q = static_cast<int32_t>(p.block_q);
  c.block_k = static_cast<int32_t>(p.block_k);
  c.smooth_k = p.smooth_k;
  c.mix_scale = p.mix_scale;
  c.mix_bias = p.mix_bias;
  return c;
}

/// `size` bytes, 64-byte aligned, poisoned with NaN patterns, with a guard on both sides that must survive.
class GuardedBytes {
 public:
  explicit GuardedBytes(uint64_t size) : size_(size), block_(size + 2 * kGuard) {
    std::memset(block_.data(), kCanary, block_.size());
    std::memset(data(), kPoison, size);
  }
  [[nodiscard]] std::byte* data() { return block_.data() + kGuard; }
  [[nodiscard]] bool intact() const {
    for (uint64_t i = 0; i < kGuard; ++i)
      if (block_[i] != std::byte{kCanary} || block_[kGuard + size_ + i] != std::byte{kCanary}) return false;
    return true;
  }

 private:
  static constexpr uint64_t kGuard = 256;
  static constexpr unsigned char kCanary = 0xA5, kPoison = 0xFF;  // 0xFFFFFFFF is a NaN: a value read unset shows
  uint64_t size_;
  AlignedBuffer<std::byte> block_;
};

inline attention::Operand dense_operand(const std::vector<float>& x, int64_t heads, int64_t tokens, int64_t dim) {
  return {x.data(), DType::kF32, heads * tokens * dim, tokens * dim, dim};
}

/// Contiguous fp32 [B,H,N,D] through a fresh plan.
inline std::vector<float> run(const attention::Config& c, const std::vector<float>& q, const std::vector<float>& k,
                              const std::vector<float>& v, const std::vector<float>& bias = {}, Isa isa = active_isa(),
                              attention::Stats* stats = nullptr) {
  const auto plan = attention::Plan::create(c, isa);
  GuardedBytes workspace(plan->workspace_bytes());
  GuardedBytes out(q.size() * sizeof(float));
  plan->forward(dense_operand(q, c.heads, c.query_tokens, c.head_dim), dense_operand(k, c.heads, c.key_tokens, c.head_dim),
                dense_operand(v, c.heads, c.key_tokens, c.head_dim), bias.empty() ? nullptr : bias.data(), workspace.data(),
                {out.data(), DType::kF32, c.heads * c.query_tokens * c.head_dim, c.query_tokens * c.head_dim, c.head_dim});
  CHECK(workspace.intact());
  CHECK(out.intact());
  if (stats != nullptr) *stats = plan->stats();
  std::vector<float> result(q.size());
  std::memcpy(result.data(), out.data(), q.size() * sizeof(float));
  return result;
}

/// Largest |x - truth|; infinite where one is NaN and the other is not.
template <typename T>
double worst(const std::vector<T>& x, const std::vector<double>& truth) {
  double most = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    const double error = std::abs(static_cast<double>(x[i]) - truth[i]);
    most = std::isnan(error) ? INFINITY : std::max(most, error);
  }
  return most;
}

/// Instruction sets that this machine (and SLA2_ISA) lets run, lowest first.
inline std::vector<Isa> sets_here() {
  std::vector<Isa> sets;
  for (const Isa isa : kAllIsas)
    if (isa <= active_isa()) sets.push_back(isa);
  return sets;
}

/// err(library, truth) <= 2 · err(plain fp32, truth) + jitter, for every instruction set here.
inline void check_budget(const oracle::Problem& p, const std::vector<float>& q, const std::vector<float>& k,
                         const std::vector<float>& v, const std::vector<float>& bias = {}) {
  const auto truth = oracle::attention<double>(p, q, k, v, bias);
  const double plain = worst(oracle::attention<float>(p, q, k, v, bias), truth);
  double size = 0;
  for (const double value : truth) size = std::max(size, std::abs(value));
  constexpr double kFactor = 2, kJitter = 4 * 6e-8;  // a few roundings of the largest output
  for (const Isa isa : sets_here()) {
    const double ours = worst(run(config_of(p), q, k, v, bias, isa), truth);
    INFO("isa " << isa_name(isa) << ", N " << p.queries << " x " << p.keys << ", D " << p.dim << ", sparsity " << p.sparsity
                << ": ours " << ours << ", plain fp32 " << plain);
    CHECK(ours <= kFactor * plain + kJitter * size);
  }
}

}  // namespace sla2::test
