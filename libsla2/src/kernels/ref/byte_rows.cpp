// SPDX-License-Identifier: Apache-2.0
// Scalar rows of bytes: the reference, and the code of CPUs without AVX2.
#include "kernels/byte_rows.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace sla2::kernels {

namespace {

RowRange range(const float* x, size_t count) {
  RowRange found;
  for (size_t i = 0; i < count; ++i) {
    found.finite = found.finite && std::isfinite(x[i]);
    found.low = std::min(found.low, x[i]);
    found.high = std::max(found.high, x[i]);
  }
  return found;
}

void encode(const float* x, size_t count, float inverse, int32_t zero, int32_t lowest, int32_t highest, uint8_t* q) {
  for (size_t i = 0; i < count; ++i) {
    const auto whole = static_cast<int32_t>(std::lrint(x[i] * inverse));
    q[i] = static_cast<uint8_t>(std::clamp(whole + zero, lowest, highest));
  }
}

void restore(const int32_t* sums, size_t count, float scale, int32_t zero, const float* column_scales, const int32_t* column_sums,
             float* y) {
  for (size_t j = 0; j < count; ++j) {
    int32_t sum = 0;
    std::memcpy(&sum, sums + j, sizeof sum);
    const float value = static_cast<float>(sum - zero * column_sums[j]) * (scale * column_scales[j]);
    std::memcpy(y + j, &value, sizeof value);
  }
}

}  // namespace

const ByteRowsTable& byte_rows_ref() {
  static constexpr ByteRowsTable kTable{range, encode, restore};
  return kTable;
}

}  // namespace sla2::kernels
