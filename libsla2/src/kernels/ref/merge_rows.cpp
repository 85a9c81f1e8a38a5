// SPDX-License-Identifier: Apache-2.0
#include "kernels/merge_rows.h"

#include <algorithm>

#include "kernels/panel_gemm.h"

namespace sla2::kernels::ref {
namespace {

void store(const float* line, int64_t count, void* out, int64_t at, DType dtype) {
  switch (dtype) {
    case DType::kBF16: convert_to_bf16(line, static_cast<bf16_t*>(out) + at, static_cast<size_t>(count)); return;
    case DType::kF16:
      for (int64_t c = 0; c < count; ++c) static_cast<uint16_t*>(out)[at + c] = f32_to_f16(line[c]);
      return;
    default: std::copy_n(line, count, static_cast<float*>(out) + at);
  }
}

}  // namespace

void merge_rows(const MergeInput& input, int64_t rows, int64_t dim, void* out, DType dtype, int64_t out_row) {
  for (int64_t r = 0; r < rows; ++r) {
    const float ws = input.w_sparse[r], wl = input.linear == nullptr ? 0.0F : input.w_linear[r];
    for (int64_t c0 = 0; c0 < dim; c0 += kPanel) {
      const int64_t width = std::min(kPanel, dim - c0);
      const int64_t at = input.row == 0 ? (c0 / kPanel * rows + r) * kPanel : r * input.row + c0;
      const float* const sparse = input.sparse + at;
      // A whole panel of fp32 is computed where it belongs; other types and a ragged end go through `own`.
      const bool in_place = dtype == DType::kF32 && width == kPanel;
      float own[kPanel];
      float* const line = in_place ? static_cast<float*>(out) + r * out_row + c0 : own;
      for (int64_t c = 0; c < kPanel; ++c) line[c] = ws == 0.0F ? 0.0F : ws * sparse[c];
      if (wl != 0.0F)
        for (int64_t c = 0; c < kPanel; ++c) line[c] += wl * input.linear[at + c];
      if (!in_place) store(line, width, out, r * out_row + c0, dtype);
    }
  }
}

}  // namespace sla2::kernels::ref
