// SPDX-License-Identifier: Apache-2.0
// What products on tensor cores share, whatever their left side is gathered from: rows of 64 bytes on their way to shared memory,
// and a warp's share of one such step.
#pragma once
#include "kernels/cuda/fragments.h"
#include "kernels/cuda/runner_params.h"

namespace sla2::cuda {

struct alignas(16) Zeros {
  uint32_t words[4];
};
struct alignas(8) TwoFloats {
  float x, y;
};

/// Rows first … first + kRows - 1 of a matrix, bytes at … at + 63, by all threads. Rows beyond the last repeat it (their results
/// are dropped); bytes beyond the row are zeros.
template <uint32_t kRows, uint32_t kThreads>
SLA2_DEVICE void copy_rows(uint32_t to, const unsigned char* from, int64_t stride, int64_t first, int64_t rows, uint32_t at,
                           uint32_t row_bytes) {
  constexpr uint32_t kStep = kGemmStepBytes, kChunks = kStep / 16, kCopies = kRows * kChunks;
#pragma unroll
  for (uint32_t i = 0; i < (kCopies + kThreads - 1) / kThreads; ++i) {
    const uint32_t index = thread_index() + i * kThreads, row = index / kChunks, byte = index % kChunks * 16;
    if (kCopies % kThreads != 0 && index >= kCopies) break;
    const int64_t source = first + row < rows ? first + row : rows - 1;
    const uint32_t target = to + image_offset(kRows, kStep, row, byte);
    if (at + byte < row_bytes)
      copy_async_16(target, from + source * stride + at + byte);
    else
      shared_store<Zeros>(target, Zeros{});
  }
}

/// sum += left · right of one step: kRowFragments times 16 rows, kColumnFragments times 8 columns. Both sides are images of rows
/// of 64 bytes; `left_row(m, i)` is the row of the left image that is row i of fragment m.
template <typename Type, uint32_t kRowFragments, uint32_t kColumnFragments, typename LeftRow>
SLA2_DEVICE void add_product_step(typename Type::Sum (&sum)[kRowFragments][kColumnFragments][4], uint32_t left,
                                  const LeftRow& left_row, uint32_t right, uint32_t right_row) {
  constexpr uint32_t kStep = kGemmStepBytes;
  const uint32_t lane = thread_index() % 32, matrix = lane / 8;
#pragma unroll
  for (uint32_t chunk = 0; chunk < kStep / 16; chunk += 2) {
    uint32_t a[kRowFragments][4], b[kColumnFragments / 2][4];
#pragma unroll
    for (uint32_t m = 0; m < kRowFragments; ++m)
      load_matrices(left + image_offset(0, kStep, left_row(m, matrix % 2 * 8 + lane % 8), (chunk + matrix / 2) * 16), a[m]);
#pragma unroll
    for (uint32_t n = 0; n < kColumnFragments / 2; ++n) load_columns<0, kStep>(right, right_row + n * 16, chunk, b[n]);
#pragma unroll
    for (uint32_t m = 0; m < kRowFragments; ++m)
#pragma unroll
      for (uint32_t n = 0; n < kColumnFragments; ++n)
        Type::multiply(sum[m][n], a[m], b[n / 2][n % 2 * 2], b[n / 2][n % 2 * 2 + 1]);
  }
}

struct ProductBf16 {
  using Sum = float;
  static constexpr uint32_t kBytes = 2;
  static SLA2_DEVICE void multiply(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    multiply_bf16(d, a, b0, b1);
  }
};
struct ProductInt8 {
  using Sum = int32_t;
  static constexpr uint32_t kBytes = 1;
  static SLA2_DEVICE void multiply(int32_t (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    multiply_int8(d, a, b0, b1);
  }
};

}  // namespace sla2::cuda
