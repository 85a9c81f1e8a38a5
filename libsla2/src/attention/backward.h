// SPDX-License-Identifier: Apache-2.0
// The gradients of attention on the CPU; plan.cpp hands Plan::backward on to this. Formulas: docs/numerics.md, "Gradients".
//
// All query heads that read one key head are one unit: its query blocks stand behind each other, u = r · T_m + i, so that dK and
// dV of grouped heads need no sums afterwards. Per group of units:
//   1 keys     pooled, centred, packed; φ, h_j, z_j and totals              backward_keys.cpp
//   2 queries  softmax statistics, a, D; linear branch's dH, dZ, dφ(Q)   backward_queries.cpp, backward_linear.cpp
//   3 keys     A_j = Σ dH over the query blocks whose linear branch sees j  backward_linear.cpp
//   4 tiles    S, dP, dS of every kept pair, once; dQ, dK, dV               backward_tiles.cpp
//   5 router   SoftTop-k, coarse branch, W_q, W_k                           backward_router.cpp
//   6 out      means taken away, types converted                            backward_keys.cpp, backward.cpp
#pragma once
#include <algorithm>

#include "attention/geometry.h"
#include "kernels/attention_ops.h"

namespace sla2::attention {

/// Sizes of every loop. Query and key blocks are those of the configuration (full mode: the dense tile's).
struct BackwardShape {
  Config config;  ///< mode: the one that forward runs
  double scale = 0;
  bool bf16 = false;                       ///< tiles multiply bf16 numbers
  bool soft = false;                       ///< SoftTop-k: every block is seen, weighed
  bool centred = false;                    ///< the softmax runs on K minus its mean
  bool softmax = false;                    ///< there is a softmax branch
  bool linear = false;                     ///< there is a linear branch
  bool shares = false;                     ///< the linear branch sees the blocks that were not kept (else all)
  bool pooled = false;                     ///< the softmax sees the mean key of each block that was not kept
  bool vsa = false;                        ///< a coarse branch, where a gate is given
  bool affine = false;                     ///< a needs the log-sum-exp
  int64_t top_k = 0;                       ///< key blocks per query block by `sparsity`: the sum of a soft mask's row
  int64_t least = 0;                       ///< sla1: blocks of each row in neither branch
  int64_t dim = 0, panels = 0, width = 0;  ///< D, ceil(D / 16), panels · 16
  int64_t block_q = 0, block_k = 0, query_blocks = 0, key_blocks = 0;
  int64_t pool_blocks = 0;           ///< key blocks made of mean keys
  int64_t route_row = 0;             ///< T_n rounded up to kRouteLanes
  int64_t units = 0, sharing = 0;    ///< batch · key heads; query heads per key head
  int64_t blocks = 0;                ///< U = sharing · T_m query blocks of a unit
  int64_t together = 0, chunks = 0;  ///< units in a group; parts that a unit's blocks are cut into (both ways)

  [[nodiscard]] int64_t query_rows(int64_t u) const {
    return std::min(block_q, config.query_tokens - u % query_blocks * block_q);
  }
  [[nodiscard]] int64_t token_keys(int64_t j) const { return std::min(block_k, config.key_tokens - j * block_k); }
  /// Keys of block j, a block of mean keys behind the T_n others.
  [[nodiscard]] int64_t keys(int64_t j) const {
    return j < key_blocks ? token_keys(j) : std::min(block_k, key_blocks - (j - key_blocks) * block_k);
  }
  [[nodiscard]] int64_t all_key_blocks() const { return key_blocks + pool_blocks; }
  [[nodiscard]] bool scores() const { return soft || vsa || least > 0; }  ///< R of the router is needed
  [[nodiscard]] bool means() const { return centred || vsa; }
};

class BackwardPlan {
 public:
  /// slots: how many workers may run at once.
  BackwardPlan(const Geometry& geometry, Isa isa, int slots);
  [[nodiscard]] uint64_t workspace_bytes() const noexcept { return bytes_; }
  /// Throws ARGUMENT; allocates nothing.
  void run(const Backward& call, void* workspace) const;

 private:
  BackwardShape shape_;
  kernels::AttentionOps ops_;
  int slots_;
  uint64_t bytes_;
};

}  // namespace sla2::attention
