// SPDX-License-Identifier: Apache-2.0
#include "kernels/block_gather.h"

#include <algorithm>

#include "kernels/panel_gemm.h"

namespace sla2::kernels {

void pack_keys(const float* rows, int64_t n, int64_t dim, int64_t block, float* out) {
  for (int64_t first = 0; first < block; first += kPanel, out += dim * kPanel) {
    const int64_t filled = std::clamp<int64_t>(n - first, 0, kPanel);
    for (int64_t c = 0; c < dim; ++c) {
      float* const line = out + c * kPanel;
      for (int64_t t = 0; t < filled; ++t) line[t] = rows[(first + t) * dim + c];
      std::fill(line + filled, line + kPanel, 0.0F);
    }
  }
}

void pack_values(const float* rows, int64_t n, int64_t dim, int64_t block, float* out) {
  for (int64_t first = 0; first < dim; first += kPanel, out += block * kPanel) {
    const int64_t width = std::min(kPanel, dim - first);
    for (int64_t t = 0; t < n; ++t) {
      std::copy_n(rows + t * dim + first, width, out + t * kPanel);
      std::fill(out + t * kPanel + width, out + (t + 1) * kPanel, 0.0F);
    }
    std::fill(out + n * kPanel, out + block * kPanel, 0.0F);
  }
}

namespace ref {

void load_rows(const RowSource& source, int64_t first, int64_t n, int64_t dim, float scale, float* out) {
  const auto* const bytes = static_cast<const unsigned char*>(source.data);
  const auto step = static_cast<int64_t>(dtype_size(source.dtype)) * source.stride;
  for (int64_t t = 0; t < n; ++t, out += dim) {
    convert_to_f32(source.dtype, bytes + (first + t) * step, out, static_cast<size_t>(dim));
    if (scale != 1.0F)
      for (int64_t c = 0; c < dim; ++c) out[c] *= scale;
  }
}

void shift_rows(int64_t n, int64_t dim, const float* shift, float* x) {
  for (int64_t t = 0; t < n; ++t, x += dim)
    for (int64_t c = 0; c < dim; ++c) x[c] -= shift[c];
}

void mean_rows(const float* rows, int64_t n, int64_t dim, float* out, int64_t out_step) {
  constexpr int64_t kChunk = 64;  // channels whose sums live on the stack
  for (int64_t c0 = 0; c0 < dim; c0 += kChunk) {
    const int64_t width = std::min(kChunk, dim - c0);
    double sum[kChunk] = {};
    for (int64_t t = 0; t < n; ++t)
      for (int64_t c = 0; c < width; ++c) sum[c] += static_cast<double>(rows[t * dim + c0 + c]);
    for (int64_t c = 0; c < width; ++c) out[(c0 + c) * out_step] = static_cast<float>(sum[c] / static_cast<double>(n));
  }
}

}  // namespace ref
}  // namespace sla2::kernels
