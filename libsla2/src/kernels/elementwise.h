// SPDX-License-Identifier: Apache-2.0
// Elementwise kernels on contiguous fp32 runs, one thread each; callers split rows. Every function exists as a scalar
// reference (ref/) and for AVX2 (cpu/); elementwise() picks by active_isa(). Source and target may be the same run.
#pragma once
#include <cstddef>
#include <cstdint>

#include "core/dtype.h"

namespace sla2::kernels {

struct ElementwiseTable {
  void (*widen_bf16)(const bf16_t* source, float* target, size_t count);
  void (*widen_f16)(const uint16_t* source, float* target, size_t count);
  void (*narrow_bf16)(const float* source, bf16_t* target, size_t count);  ///< round to nearest even, NaN kept
  void (*round_to_bf16)(const float* source, float* target, size_t count);
  /// y = x + bias
  void (*add_bias)(const float* x, const float* bias, float* y, size_t count);
  /// y = gelu_tanh(x + bias); gelu_tanh(v) = v·(1 + tanh(sqrt(2/pi)·(v + 0.044715·v^3)))/2
  void (*bias_gelu_tanh)(const float* x, const float* bias, float* y, size_t count);
  /// y = silu(x + bias), silu(v) = v / (1 + exp(-v))
  void (*bias_silu)(const float* x, const float* bias, float* y, size_t count);
  /// x = x + gate·(y + bias)
  void (*add_gated)(const float* y, const float* bias, const float* gate, float* x, size_t count);
  bool (*all_finite)(const float* values, size_t count);
};

[[nodiscard]] const ElementwiseTable& elementwise_ref();
[[nodiscard]] const ElementwiseTable& elementwise_avx2();  ///< call only where the CPU has AVX2
[[nodiscard]] const ElementwiseTable& elementwise();       ///< the best for this CPU

/// Threaded over fixed ranges.
void silu(float* values, int64_t count);
[[nodiscard]] bool all_finite(const float* values, int64_t count);

}  // namespace sla2::kernels
