// SPDX-License-Identifier: Apache-2.0
// Online softmax over one tile of logits, in base 2 (the caller scales q by log2 e), and the rescaling it asks for.
//
//   in     s [rows, cols] logits, row stride s_row, cols a multiple of kPanel; bias [cols] added to each row, or null
//          (-inf masks a column); state per row: max m, sum l (start with -inf, 0)
//   out    s = 2^(s + bias - m'), m' = max(m, row max), l' = l · 2^(m - m') + row sum, rescale = 2^(m - m')
//   return true if any row needs its accumulator rescaled (rescale != 1)
//
// A row whose logits are all -inf keeps m = -inf and gets zeros. NaN logits make l NaN; they are not hidden.
#pragma once
#include <cstdint>

namespace sla2::kernels {

using OnlineSoftmax = bool (*)(int64_t rows, int64_t cols, float* s, int64_t s_row, const float* bias, float* m, float* l,
                               float* rescale);
/// acc [panels][rows][kPanel]: row r of every panel is multiplied by rescale[r].
using RescaleRows = void (*)(int64_t rows, int64_t panels, const float* rescale, float* acc);

namespace ref {
bool online_softmax(int64_t rows, int64_t cols, float* s, int64_t s_row, const float* bias, float* m, float* l, float* rescale);
void rescale_rows(int64_t rows, int64_t panels, const float* rescale, float* acc);
}  // namespace ref
namespace avx2 {
bool online_softmax(int64_t rows, int64_t cols, float* s, int64_t s_row, const float* bias, float* m, float* l, float* rescale);
void rescale_rows(int64_t rows, int64_t panels, const float* rescale, float* acc);
}  // namespace avx2
namespace avx512 {
bool online_softmax(int64_t rows, int64_t cols, float* s, int64_t s_row, const float* bias, float* m, float* l, float* rescale);
void rescale_rows(int64_t rows, int64_t panels, const float* rescale, float* acc);
}  // namespace avx512

}  // namespace sla2::kernels
