// SPDX-License-Identifier: Apache-2.0
// Scalar rotation of adjacent pairs.
#include "kernels/rope.h"

namespace sla2::kernels {

namespace {

void rotate_row(float* x, const float* cosine, const float* sine, size_t heads, size_t pairs) {
  for (size_t head = 0; head < heads; ++head) {
    float* run = x + head * 2 * pairs;
    for (size_t j = 0; j < pairs; ++j) {
      const float a = run[2 * j], b = run[2 * j + 1];
      run[2 * j] = a * cosine[j] - b * sine[j];
      run[2 * j + 1] = a * sine[j] + b * cosine[j];
    }
  }
}

}  // namespace

const RopeTable& rope_ref() {
  static constexpr RopeTable kTable{rotate_row};
  return kTable;
}

}  // namespace sla2::kernels
