// SPDX-License-Identifier: Apache-2.0
#include "kernels/gemm.h"

#include <oneapi/dnnl/dnnl.h>

#include <algorithm>

#include "core/core.h"

namespace sla2::kernels {

namespace {

/// Inside a parallel region oneDNN runs on one thread by itself; outside of one (a single tile) it would start its own team and
/// split K.
constexpr int kSerial = 1;

}  // namespace

void gemm_f32_serial(int64_t m, int64_t n, int64_t k, const float* a, int64_t lda, bool trans_a, const float* b, int64_t ldb,
                     bool trans_b, float* c, int64_t ldc, float alpha, float beta) {
  if (m == 0 || n == 0) return;
  const ThreadCountScope guard(kSerial);
  // Fails only for wrong dimensions, which are ours.
  [[maybe_unused]] const dnnl_status_t status =
      dnnl_sgemm(trans_a ? 'T' : 'N', trans_b ? 'T' : 'N', m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
  assert(status == dnnl_success);
}

void gemm_f32(int64_t m, int64_t n, int64_t k, const float* a, int64_t lda, bool trans_a, const float* b, int64_t ldb,
              bool trans_b, float* c, int64_t ldc, float alpha, float beta) {
  if (m == 0 || n == 0) return;
  const int64_t rows = row_tile(m), row_tiles = (m + rows - 1) / rows, panels = (n + kColumnPanel - 1) / kColumnPanel;
  parallel_for(row_tiles * panels, [&](int64_t task, int) {
    const int64_t row = task % row_tiles * rows, column = task / row_tiles * kColumnPanel;
    gemm_f32_serial(std::min(rows, m - row), std::min(kColumnPanel, n - column), k, a + (trans_a ? row : row * lda), lda, trans_a,
                    b + (trans_b ? column * ldb : column), ldb, trans_b, c + row * ldc + column, ldc, alpha, beta);
  });
}

}  // namespace sla2::kernels
