// SPDX-License-Identifier: Apache-2.0
// Passes over rows, AVX-512.
#include "kernels/cpu/gradient_rows.h"
#include "kernels/cpu/rows.h"

namespace sla2::kernels {
SLA2_ROW_OPS(avx512, 16)
SLA2_GRADIENT_ROW_OPS(avx512, 16)
}  // namespace sla2::kernels
