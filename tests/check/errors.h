// SPDX-License-Identifier: Apache-2.0
// How far each arithmetic is from the truth: what a reader of docs/numerics.md wants to know, not whether it passes.
#pragma once
#include "subject.h"

namespace sla2::check {

/// Markdown, a row per case: relative L1 and 1 − cosine against fp64 over the same blocks, for fp32, bf16 products, 8 bits, and 8
/// bits with P·V in e4m3, whatever the case itself says of them.
[[nodiscard]] std::string error_table(const std::vector<Case>& cases, const Target& target);

}  // namespace sla2::check
