// SPDX-License-Identifier: Apache-2.0
#include "kernels/byte_rows.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "core/core.h"

namespace sla2::kernels {

namespace {

constexpr int32_t kWeightLevels = 127;
constexpr float kLeastRange = 1e-30F;  // below, 1 / scale nears infinity, and no network means such numbers

/// The part both encodings share: rows without numbers, and rows without a scale.
template <typename Encode>
RowCode encode(const RowRange& range, float span, size_t count, void* q, const Encode& encode_row) {
  const bool nothing = span < kLeastRange;
  if (range.finite && !nothing) return encode_row();
  std::memset(q, 0, count);
  return {range.finite ? 0.0F : std::numeric_limits<float>::quiet_NaN(), 0};
}

}  // namespace

const ByteRowsTable& byte_rows() {
  static const ByteRowsTable& table = active_isa() >= Isa::kAvx2 ? byte_rows_avx2() : byte_rows_ref();
  return table;
}

RowCode encode_activations(const float* x, size_t count, int levels, uint8_t* q) {
  const ByteRowsTable& run = byte_rows();
  const RowRange range = run.range(x, count);
  const float span = range.high - range.low;
  return encode(range, span, count, q, [&] {
    const float scale = span / static_cast<float>(levels), inverse = static_cast<float>(levels) / span;
    const auto zero = static_cast<int32_t>(std::lrint(-range.low * inverse));
    run.encode(x, count, inverse, zero, 0, levels, q);
    return RowCode{scale, zero};
  });
}

RowCode encode_weights(const float* x, size_t count, int8_t* q) {
  const ByteRowsTable& run = byte_rows();
  const RowRange range = run.range(x, count);
  const float most = std::max(-range.low, range.high);
  return encode(range, most, count, q, [&] {
    constexpr auto kLevels = static_cast<float>(kWeightLevels);
    run.encode(x, count, kLevels / most, 0, -kWeightLevels, kWeightLevels, reinterpret_cast<uint8_t*>(q));
    return RowCode{most / kLevels, 0};
  });
}

}  // namespace sla2::kernels
