// SPDX-License-Identifier: Apache-2.0
// Panel product, plain: the definition, and the version for machines without AVX2.
#include "kernels/panel_gemm.h"

#include <algorithm>

namespace sla2::kernels::ref {
namespace {

// Without FMA every product is rounded too; partial sums of this many keep the whole error at that of the AVX2 version.
constexpr int64_t kChunk = 32;

}  // namespace

void panel_gemm(int64_t rows, int64_t depth, const float* a, int64_t a_row, int64_t a_step, const float* b, float* c,
                int64_t c_row, bool accumulate) {
  for (int64_t r = 0; r < rows; ++r) {
    float sum[kPanel] = {};
    for (int64_t first = 0; first < depth; first += kChunk) {
      float part[kPanel] = {};
      for (int64_t k = first; k < std::min(depth, first + kChunk); ++k) {
        const float x = a[r * a_row + k * a_step];
        for (int64_t n = 0; n < kPanel; ++n) part[n] += x * b[k * kPanel + n];
      }
      for (int64_t n = 0; n < kPanel; ++n) sum[n] += part[n];
    }
    float* const out = c + r * c_row;
    for (int64_t n = 0; n < kPanel; ++n) out[n] = accumulate ? out[n] + sum[n] : sum[n];
  }
}

}  // namespace sla2::kernels::ref
