// SPDX-License-Identifier: Apache-2.0
// The oracle's inputs and results as files, for somebody else's formulas to be held against.
#pragma once
#include "case.h"

namespace sla2::check {

/// folder/manifest.json (case keys; array name → shape) and folder/<name>.f64, little-endian doubles, heads stacked first.
/// Arrays: q k v [w_q w_k proj proj_bias gate given key_bias] a d_out; o lse mask scores; d_q d_k d_v d_a [d_w_q …].
void dump_oracle(const Case& c, const std::string& folder);

}  // namespace sla2::check
