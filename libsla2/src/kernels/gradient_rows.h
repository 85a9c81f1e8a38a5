// SPDX-License-Identifier: Apache-2.0
// Passes over rows that only gradients need.
#pragma once
#include <cstdint>

namespace sla2::kernels {

/// out [rows] = x · y of each row in fp64; y_row 0: one line for all. D is a multiple of 8.
using RowDots = void (*)(int64_t rows, int64_t dim, const float* x, int64_t x_row, const float* y, int64_t y_row, double* out);
/// Through φ = softmax over channels (feature_map.h): out = φ ⊙ (dφ − ⟨φ, dφ⟩), the mean in fp64. φ [rows][D]; dφ and out `row`
/// apart and of that width: what is beyond D becomes zero.
using ThroughFeatures = void (*)(int64_t rows, int64_t dim, const float* phi, const float* d_phi, int64_t row, float* out);

#define SLA2_GRADIENT_ROW_OPS_DECLARED                                                                                 \
  void row_dots(int64_t rows, int64_t dim, const float* x, int64_t x_row, const float* y, int64_t y_row, double* out); \
  void through_features(int64_t rows, int64_t dim, const float* phi, const float* d_phi, int64_t row, float* out);
namespace ref {
SLA2_GRADIENT_ROW_OPS_DECLARED
}
namespace avx2 {
SLA2_GRADIENT_ROW_OPS_DECLARED
}
namespace avx512 {
SLA2_GRADIENT_ROW_OPS_DECLARED
}
#undef SLA2_GRADIENT_ROW_OPS_DECLARED

}  // namespace sla2::kernels
