// SPDX-License-Identifier: Apache-2.0
// Row norms over the full width, fp32 statistics, two passes over a row that sits in L1.
// Tables hold one-row kernels; the functions below run them over rows [rows, width] with threads.
#pragma once
#include <cstddef>
#include <cstdint>

namespace sla2::kernels {

struct NormTable {
  /// y = (x - mean)·rsqrt(var + eps)·scale + shift; scale or shift null: 1, 0.
  void (*layer_norm_row)(const float* x, const float* scale, const float* shift, float eps, float* y, size_t width);
  /// y = x·rsqrt(mean(x^2) + eps)·weight
  void (*rms_norm_row)(const float* x, const float* weight, float eps, float* y, size_t width);
};

[[nodiscard]] const NormTable& norm_ref();
[[nodiscard]] const NormTable& norm_avx2();
[[nodiscard]] const NormTable& norm();

/// Modulation passes scale = 1 + scale' and shift; an affine LayerNorm its weight and bias. x and y may be the same.
void layer_norm(const float* x, int64_t ldx, const float* scale, const float* shift, float eps, float* y, int64_t ldy,
                int64_t rows, int64_t width);
void rms_norm(const float* x, int64_t ldx, const float* weight, float eps, float* y, int64_t ldy, int64_t rows, int64_t width);

}  // namespace sla2::kernels
