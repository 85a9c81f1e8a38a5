// SPDX-License-Identifier: Apache-2.0
// Tiles of attention, AVX2.
#include "kernels/cpu/tiles_ops.h"

namespace sla2::kernels {
SLA2_TILE_OPS(avx2, 8)
}  // namespace sla2::kernels
