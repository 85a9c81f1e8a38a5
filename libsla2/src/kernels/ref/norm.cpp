// SPDX-License-Identifier: Apache-2.0
// Scalar row norms; sums in fp64, so that this is also the yardstick for the vector versions.
#include "kernels/norm.h"

#include <cmath>

namespace sla2::kernels {

namespace {

void layer_norm_row(const float* x, const float* scale, const float* shift, float eps, float* y, size_t width) {
  double sum = 0, squares = 0;
  for (size_t i = 0; i < width; ++i) sum += x[i];
  const double mean = sum / static_cast<double>(width);
  for (size_t i = 0; i < width; ++i) squares += (x[i] - mean) * (x[i] - mean);
  const double inverse = 1.0 / std::sqrt(squares / static_cast<double>(width) + static_cast<double>(eps));
  for (size_t i = 0; i < width; ++i) {
    const auto normal = static_cast<float>((x[i] - mean) * inverse);
    y[i] = (scale != nullptr ? normal * scale[i] : normal) + (shift != nullptr ? shift[i] : 0.0F);
  }
}

void rms_norm_row(const float* x, const float* weight, float eps, float* y, size_t width) {
  double squares = 0;
  for (size_t i = 0; i < width; ++i) squares += static_cast<double>(x[i]) * x[i];
  const double inverse = 1.0 / std::sqrt(squares / static_cast<double>(width) + static_cast<double>(eps));
  for (size_t i = 0; i < width; ++i) y[i] = static_cast<float>(x[i] * inverse) * weight[i];
}

}  // namespace

const NormTable& norm_ref() {
  static constexpr NormTable kTable{layer_norm_row, rms_norm_row};
  return kTable;
}

}  // namespace sla2::kernels
