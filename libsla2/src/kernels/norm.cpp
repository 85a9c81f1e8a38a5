// SPDX-License-Identifier: Apache-2.0
#include "kernels/norm.h"

#include "core/core.h"

namespace sla2::kernels {

namespace {
constexpr int64_t kRowGrain = 16;
}

const NormTable& norm() {
  static const NormTable& table = active_isa() >= Isa::kAvx2 ? norm_avx2() : norm_ref();
  return table;
}

void layer_norm(const float* x, int64_t ldx, const float* scale, const float* shift, float eps, float* y, int64_t ldy,
                int64_t rows, int64_t width) {
  parallel_ranges(rows, kRowGrain, [&](int64_t begin, int64_t end, int) {
    for (int64_t row = begin; row < end; ++row)
      norm().layer_norm_row(x + row * ldx, scale, shift, eps, y + row * ldy, static_cast<size_t>(width));
  });
}

void rms_norm(const float* x, int64_t ldx, const float* weight, float eps, float* y, int64_t ldy, int64_t rows, int64_t width) {
  parallel_ranges(rows, kRowGrain, [&](int64_t begin, int64_t end, int) {
    for (int64_t row = begin; row < end; ++row)
      norm().rms_norm_row(x + row * ldx, weight, eps, y + row * ldy, static_cast<size_t>(width));
  });
}

}  // namespace sla2::kernels
