// SPDX-License-Identifier: Apache-2.0
// Tiles of attention, AVX-512.
#include "kernels/cpu/tiles_ops.h"

namespace sla2::kernels {
SLA2_TILE_OPS(avx512, 16)
}  // namespace sla2::kernels
