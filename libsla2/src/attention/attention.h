// SPDX-License-Identifier: Apache-2.0
// The door of attention for rooms inside the library (api/ wraps it for C). Semantics: SLA2, arXiv 2602.12675; see
// docs/numerics.md. Letters: B batch, H heads, N tokens, D head dimension.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "core/core.h"

namespace sla2::attention {

enum class Mode : uint8_t { kFull = 1, kSla2 = 2 };
enum class Mix : uint8_t { kHeadAffineLse = 1, kConst = 2 };

struct Config {
  Mode mode = Mode::kFull;
  Mix mix = Mix::kHeadAffineLse;
  int64_t batch = 1, heads = 0, query_tokens = 0, key_tokens = 0, head_dim = 0;
  double sparsity = 0;       ///< fraction of key blocks skipped; kept = max(1, round((1 - sparsity) * T_n))
  double softmax_scale = 0;  ///< 0: 1/sqrt(D)
  int32_t block_q = 128, block_k = 64;
  bool smooth_k = true;
  double mix_scale = 0.6, mix_bias = 0.5;
  DType products = DType::kF32;  ///< kBF16: Q·Kᵀ and P·V multiply bf16 numbers where the CPU has instructions for that
};

/// A strided view [B,H,N,D] of any layout; strides in elements, last axis contiguous.
struct Operand {
  const void* data = nullptr;
  DType dtype = DType::kF32;
  int64_t stride_batch = 0, stride_head = 0, stride_token = 0;
};
struct MutableOperand {
  void* data = nullptr;
  DType dtype = DType::kF32;
  int64_t stride_batch = 0, stride_head = 0, stride_token = 0;
};

struct Stats {
  Mode mode_used = Mode::kFull;
  double achieved_sparsity = 0;
  int64_t blocks_kept = 0, blocks_total = 0;
  double mean_linear_weight = 0;  ///< mean of (1 - a) over rows: how much the linear branch speaks
};

/// Shapes checked, kernels chosen. One thread at a time; forward allocates nothing.
class Plan {
 public:
  static std::unique_ptr<Plan> create(const Config& config);           ///< throws ARGUMENT | UNSUPPORTED
  static std::unique_ptr<Plan> create(const Config& config, Isa isa);  ///< with the kernels of one instruction set (tests)
  virtual ~Plan() = default;
  [[nodiscard]] virtual const Config& config() const noexcept = 0;
  [[nodiscard]] virtual uint64_t workspace_bytes() const noexcept = 0;
  /// q [B,H,N_q,D], k and v [B,H,N_k,D], out like q. Optional per-key bias [N_k] added to the logits (full mode only;
  /// cross-attention uses it for the collapsed padding row). Workspace 64-byte aligned.
  virtual void forward(const Operand& q, const Operand& k, const Operand& v, const float* key_bias, void* workspace,
                       const MutableOperand& out) = 0;
  [[nodiscard]] virtual const Stats& stats() const noexcept = 0;
};

}  // namespace sla2::attention
