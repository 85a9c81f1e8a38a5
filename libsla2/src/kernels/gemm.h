// SPDX-License-Identifier: Apache-2.0
// fp32 matrix products through oneDNN's sgemm. Row-major, leading dimensions in elements.
// Every product is cut into tiles whose sizes depend on the shape alone and each tile is computed by one thread, so that
// results are bit-identical for any number of threads (oneDNN left alone splits K by the thread count).
#pragma once
#include <cstdint>

namespace sla2::kernels {

/// C[M,N] = alpha · op(A)[M,K] · op(B)[K,N] + beta · C, threaded. op is transposition where the flag says so.
void gemm_f32(int64_t m, int64_t n, int64_t k, const float* a, int64_t lda, bool trans_a, const float* b, int64_t ldb,
              bool trans_b, float* c, int64_t ldc, float alpha = 1.0F, float beta = 0.0F);

/// The same on the calling thread alone: for use inside parallel_for bodies.
void gemm_f32_serial(int64_t m, int64_t n, int64_t k, const float* a, int64_t lda, bool trans_a, const float* b, int64_t ldb,
                     bool trans_b, float* c, int64_t ldc, float alpha = 1.0F, float beta = 0.0F);

/// How rows are cut: at most kMaxRowTile, equal but for the last, a multiple of kRowMultiple.
inline constexpr int64_t kMaxRowTile = 512, kRowMultiple = 16, kColumnPanel = 256;
[[nodiscard]] constexpr int64_t row_tile(int64_t rows) {
  const int64_t tiles = (rows + kMaxRowTile - 1) / kMaxRowTile;
  const int64_t even = (rows + tiles - 1) / tiles;
  return (even + kRowMultiple - 1) / kRowMultiple * kRowMultiple;
}

}  // namespace sla2::kernels
