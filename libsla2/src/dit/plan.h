// SPDX-License-Identifier: Apache-2.0
// The activation buffers of one forward pass, known from sizes alone. fp32 everywhere.
#pragma once
#include "core/core.h"
#include "dit/dit.h"
#include "dit/loader.h"

namespace sla2::dit {

/// Rows at a time where nobody says: few enough for q, k, v and the FFN's hidden rows to stay in the last cache, many enough for
/// every thread. Results do not depend on it.
[[nodiscard]] int64_t default_token_chunk(int64_t tokens);

/// Offsets into one arena. Steps of a pass, in order; only x lives from block to block.
struct Activations {
  enum Step : int { kPatch, kQkv, kSelfAttention, kSelfOut, kCrossQuery, kCrossAttention, kCrossOut, kFfn, kHead };

  Activations(const config::DitConfig& config, const Holding& holding, int64_t tokens, int64_t token_chunk);

  int64_t tokens = 0, chunk = 0;
  MemoryPlan memory;
  size_t x = 0;                                                      ///< [tokens, dim]
  size_t tokens_in = 0;                                              ///< [tokens, 4·in_channels]
  size_t qkv = 0;                                                    ///< [tokens, 3·dim]
  size_t self_out = 0;                                               ///< [tokens, dim]
  size_t cross_q = 0, cross_out = 0;                                 ///< [tokens, dim]
  size_t qkv_norm = 0, cross_norm = 0, ffn_norm = 0, head_norm = 0;  ///< [chunk, dim]
  size_t hidden = 0;                                                 ///< [chunk, ffn_dim]
  size_t tokens_out = 0;                                             ///< [tokens, 4·out_channels]
  size_t scratch = 0;                                                ///< for the products
};

attention::Config self_attention_config(const config::DitConfig& config, int64_t tokens, const LayerAttention& layer,
                                        kernels::Compute compute);
attention::Config cross_attention_config(const config::DitConfig& config, int64_t tokens, int64_t keys, kernels::Compute compute);

/// Keys of cross-attention for a prompt: its rows, and one for all padding rows if there are any.
[[nodiscard]] int64_t prompt_keys(const config::DitConfig& config, int64_t prompt_tokens);
/// Vectors per layer and for the head that depend on the timestep.
[[nodiscard]] int64_t modulation_floats(const config::DitConfig& config);
[[nodiscard]] uint64_t resident_bytes(const config::DitConfig& config, const Holding& holding);

}  // namespace sla2::dit
