// SPDX-License-Identifier: Apache-2.0
// The rules by which routers pick blocks from scores. One row at a time; nothing is allocated.
#pragma once
#include "attention/geometry.h"

namespace sla2::attention {

/// What becomes of a key block; the numbers are the order of the stretches in WorkerBuffers::order.
inline constexpr uint8_t kDropped = 0, kKept = 1, kRest = 2;

struct RuleInput {
  int64_t query_block;
  const double* scores;    ///< [T_n]
  const double* likeness;  ///< [T_n] sparge: self-similarity of key blocks; null elsewhere
  bool keep_all;           ///< sparge: the query block is unlike itself
};
struct RuleScratch {
  uint8_t* marks;   ///< [T_n] out
  int32_t* ranked;  ///< [T_n]
  double* share;    ///< [T_n]
};

/// The best `top_k` of the row and nothing else: kernels::top_blocks does it without ranking the others.
[[nodiscard]] bool is_plain_top_k(const Geometry& g);
/// Every block of the row: kept, dropped (sla1's negligible ones) or the rest. At least one is kept.
void mark_blocks(const Geometry& g, const RuleInput& in, const RuleScratch& out);

[[nodiscard]] inline bool has_weights(const Parameters& p) { return p.router_q != nullptr || p.router_k != nullptr; }

}  // namespace sla2::attention
