// SPDX-License-Identifier: Apache-2.0
// Rows of fp32 to bytes and sums of products of bytes back to fp32, for the 8-bit Linears of packed_linear.
// x [in] is held as x ≈ scale·(q − zero), q whole: for a row of activations q in [0, levels] and zero in between, so that all
// levels are used however one-sided the row is (after GELU it is); for a row of weights zero = 0 and q in [-127, 127].
// One thread each, every version gives the same bits: a maximum has no order, and each product is rounded once.
#pragma once
#include <cstddef>
#include <cstdint>

namespace sla2::kernels {

/// Smallest and largest number of a row and of 0.
struct RowRange {
  float low = 0, high = 0;
  bool finite = true;  ///< if not, low and high mean nothing
};

struct ByteRowsTable {
  RowRange (*range)(const float* x, size_t count);
  /// q = round(x·inverse) + zero, limited to [lowest, highest] and stored as a byte; x·inverse below 2^31
  void (*encode)(const float* x, size_t count, float inverse, int32_t zero, int32_t lowest, int32_t highest, uint8_t* q);
  /// y[j] = (sums[j] − zero·column_sums[j]) · (scale·column_scales[j]); y and sums may be the same bytes
  void (*restore)(const int32_t* sums, size_t count, float scale, int32_t zero, const float* column_scales,
                  const int32_t* column_sums, float* y);
};

[[nodiscard]] const ByteRowsTable& byte_rows_ref();
[[nodiscard]] const ByteRowsTable& byte_rows_avx2();  ///< call only where the CPU has AVX2
[[nodiscard]] const ByteRowsTable& byte_rows();       ///< the best for this CPU

/// How a row is held. A row of (nearly) zeros has scale 0; one with NaN or infinity has scale NaN, which makes every result NaN.
struct RowCode {
  float scale = 0;
  int32_t zero = 0;
};
/// A row of activations in levels + 1 steps, at most 256.
RowCode encode_activations(const float* x, size_t count, int levels, uint8_t* q);
/// A row of weights, symmetric: zero is 0.
RowCode encode_weights(const float* x, size_t count, int8_t* q);

}  // namespace sla2::kernels
