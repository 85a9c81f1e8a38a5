// SPDX-License-Identifier: Apache-2.0
// From a configuration to the numbers every loop needs. Checked once, when the plan is made.
#pragma once
#include <algorithm>

#include "attention/attention.h"

namespace sla2::attention {

struct Geometry {
  Config config;             ///< kv_heads resolved: never 0
  bool bf16 = false;         ///< the softmax branch multiplies bf16 numbers: its packed arrays are
  bool int8 = false;         ///< Q·Kᵀ in 8 bits; then bf16 is set too, for P·V
  bool fp8 = false;          ///< with int8: P·V as GPUs compute it in FP8
  bool linear_bf16 = false;  ///< the linear branch multiplies bf16 numbers; then bf16 is set too
  Mode mode = Mode::kFull;   ///< what runs: a sparse mode that keeps every block, or has few tokens, is the full path
  // What the mode asks for.
  bool routed = false;  ///< a router picks blocks
  bool linear = false;  ///< there is a linear branch
  bool pooled = false;  ///< the mean keys of blocks take part in the softmax
  bool soft = false;    ///< the mask is a weight between 0 and 1
  double scale = 0;     ///< softmax scale, never 0
  int64_t block_q = 0, block_k = 0;
  int64_t query_blocks = 0, key_blocks = 0;  ///< T_m, T_n
  int64_t top_k = 0;                         ///< key blocks per query block by `sparsity`, before protected ones are counted
  int64_t max_kept = 0;                      ///< most blocks a query block can keep
  int64_t list_query_blocks = 0, list_key_blocks = 0;  ///< T_m and T_n of the configured blocks, which lists are in
  int64_t mean_blocks = 0;                             ///< pooled: blocks of mean keys behind the key blocks
  int64_t dim = 0, panels = 0;                         ///< D, ceil(D / 16)
  int64_t route_row = 0;                               ///< T_n rounded up to kRouteLanes
  int64_t heads = 0;                                   ///< query heads: batch · heads
  int64_t key_heads = 0;                               ///< batch · kv_heads
  int64_t heads_per_key = 0;                           ///< query heads that share a key head
  int64_t group = 0;                                   ///< key heads prepared together

  [[nodiscard]] bool centred() const { return int8 || mode != Mode::kFull; }  ///< keys are packed minus their mean
  [[nodiscard]] int64_t query_rows(int64_t block) const { return std::min(block_q, config.query_tokens - block * block_q); }
  [[nodiscard]] int64_t key_rows(int64_t block) const { return std::min(block_k, config.key_tokens - block * block_k); }
  /// The means of value blocks are needed.
  [[nodiscard]] bool pools_values() const { return pooled || (routed && config.router == Router::kVsa); }
  /// Key blocks [first, last] that share a token index with a query block, and `near` on both sides of them.
  struct Range {
    int64_t first, last;
  };
  [[nodiscard]] Range own_blocks(int64_t query_block, int64_t near) const {
    const int64_t first = query_block * block_q;
    return {first / block_k - near, (first + query_rows(query_block) - 1) / block_k + near};
  }
  /// Is key block j always kept by query block i?
  [[nodiscard]] bool is_protected(int64_t i, int64_t j) const;
  [[nodiscard]] bool protects() const;  ///< any
};

/// Throws SLA2_E_ARGUMENT naming the field, its value and what is allowed.
[[nodiscard]] Geometry make_geometry(const Config& config, Isa isa);

}  // namespace sla2::attention
