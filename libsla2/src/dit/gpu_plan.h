// SPDX-License-Identifier: Apache-2.0
// The activation buffers of one pass on a GPU, known from sizes alone: the residual stream and its norms in fp32, rows on their
// way into products in bf16 or bytes.
#pragma once
#include "device/device.h"
#include "dit/gpu_weights.h"
#include "dit/plan.h"

namespace sla2::dit {

struct GpuActivations {
  using Step = Activations::Step;

  /// `streams`: residual streams at a time, 2 where two prompts share each block's weights.
  GpuActivations(const config::DitConfig& config, const Holding& holding, int64_t tokens, int64_t token_chunk, int streams);

  int64_t tokens = 0, chunk = 0;
  MemoryPlan memory;
  size_t x[2] = {};             ///< [tokens, dim] fp32
  size_t tokens_in = 0;         ///< [tokens, 4·in_channels] bf16
  size_t qkv = 0;               ///< [tokens, 3·dim] bf16
  size_t self_out = 0;          ///< [tokens, dim] bf16
  size_t cross_q = 0;           ///< [tokens, dim] bf16
  size_t cross_out = 0;         ///< [tokens, dim] bf16
  size_t normed = 0;            ///< [chunk, dim] bf16 or bytes
  size_t hidden = 0;            ///< [chunk, ffn_dim] bf16
  size_t steps = 0, scale = 0;  ///< [chunk, max(dim, ffn_dim)] bytes, [chunk] fp32; only with Linears in 8 bits
  size_t tokens_out = 0;        ///< [tokens, 4·out_channels] fp32
  size_t bad = 0;               ///< [2][layers + 1]: what a block was given has NaN or infinity
};

/// Rows at a time on a GPU where nobody says: enough for every multiprocessor, few enough for the FFN's hidden rows.
[[nodiscard]] int64_t default_gpu_chunk(int64_t tokens);

/// Throws UNSUPPORTED with the reason for what the GPU's blocks do not do; the attention room refuses the rest itself.
void check_gpu_attention(const LayerAttention& kind);

/// The form of weights on a GPU: bf16, or bytes in the blocks.
[[nodiscard]] Holding gpu_holding(const Options& options);

}  // namespace sla2::dit
