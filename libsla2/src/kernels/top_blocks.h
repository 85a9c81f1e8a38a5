// SPDX-License-Identifier: Apache-2.0
// Hard Top-k of the router: the `keep` largest of `count` scores, ties to the lowest index, indices ascending.
// A NaN score counts as larger than any number, so that broken input reaches the output instead of being routed around.
#pragma once
#include <cstdint>

namespace sla2::kernels {

/// order [count] scratch; afterwards order[0, keep) are the kept indices and order[keep, count) the others, both ascending.
void top_blocks(int64_t count, int64_t keep, const double* scores, int32_t* order);

}  // namespace sla2::kernels
