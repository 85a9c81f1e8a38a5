// SPDX-License-Identifier: Apache-2.0
// From a configuration to the numbers every loop needs. Checked once, when the plan is made.
#pragma once
#include <algorithm>

#include "attention/attention.h"

namespace sla2::attention {

struct Geometry {
  Config config;
  bool bf16 = false;        ///< products in bf16: the packed arrays are
  bool int8 = false;        ///< Q·Kᵀ in 8 bits; then bf16 is set too, for all other products
  bool fp8 = false;         ///< with int8: P·V as GPUs compute it in FP8
  Mode mode = Mode::kFull;  ///< what runs: SLA2 with every block kept is the full path
  double scale = 0;         ///< softmax scale, never 0
  int64_t block_q = 0, block_k = 0;
  int64_t query_blocks = 0, key_blocks = 0;  ///< T_m, T_n
  int64_t kept = 0;                          ///< key blocks per query block
  int64_t dim = 0, panels = 0;               ///< D, ceil(D / 16)
  int64_t route_row = 0;                     ///< T_n rounded up to kRouteLanes
  int64_t heads = 0;                         ///< batch · heads
  int64_t group = 0;                         ///< heads prepared together

  [[nodiscard]] bool centred() const { return int8 || mode != Mode::kFull; }  ///< keys are packed minus their mean
  [[nodiscard]] int64_t query_rows(int64_t block) const { return std::min(block_q, config.query_tokens - block * block_q); }
  [[nodiscard]] int64_t key_rows(int64_t block) const { return std::min(block_k, config.key_tokens - block * block_k); }
};

/// Throws SLA2_E_ARGUMENT naming the field, its value and what is allowed.
[[nodiscard]] Geometry make_geometry(const Config& config, Isa isa);

}  // namespace sla2::attention
