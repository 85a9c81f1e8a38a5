// SPDX-License-Identifier: Apache-2.0
// A T5 encoder's rows beside products: RMSNorm and the gated GELU. A warp takes a row; fp32 inside, two bf16 for each number out.
#include "kernels/cuda/gemm.h"
#include "kernels/cuda/text_rows.h"

namespace sla2::cuda {
namespace {

struct TextRow {
  int64_t row;
  int32_t lane;
};
SLA2_DEVICE TextRow text_row() {
  return {static_cast<int64_t>(block_x()) * kRowsPerBlock + thread_index() / 32, static_cast<int32_t>(thread_index() % 32)};
}
SLA2_DEVICE void store_split(const SplitRows& y, int64_t at, Pair v) {
  const SplitPair parts = split(v);
  *reinterpret_cast<uint32_t*>(y.high + at) = parts.high;
  *reinterpret_cast<uint32_t*>(y.low + at) = parts.low;
}

}  // namespace

SLA2_KERNEL(sla2_text_norm, kRowThreads, 1, TextNormParams) {
  const TextRow at = text_row();
  if (at.row >= p.rows) return;
  const int64_t from = at.row * p.width;
  float squares = 0;
  for (int32_t c = 2 * at.lane; c < p.width; c += 64) {
    const float a = p.x[from + c], b = p.x[from + c + 1];
    squares += a * a + b * b;
  }
  const float factor = inverse_root(warp_sum(squares) / static_cast<float>(p.width) + p.eps);
  for (int32_t c = 2 * at.lane; c < p.width; c += 64) {
    const Pair v{p.x[from + c] * factor * p.weight[c], p.x[from + c + 1] * factor * p.weight[c + 1]};
    if (p.y.high != nullptr)
      store_split(p.y, from + c, v);
    else
      p.wide[from + c] = v.x, p.wide[from + c + 1] = v.y;
  }
}

SLA2_KERNEL(sla2_text_gate, kRowThreads, 1, TextGateParams) {
  const TextRow at = text_row();
  if (at.row >= p.rows) return;
  const float *const gate = p.x + at.row * 2 * p.width, *const up = gate + p.width;
  for (int32_t c = 2 * at.lane; c < p.width; c += 64)
    store_split(p.y, at.row * p.width + c, {gelu_tanh(gate[c]) * up[c], gelu_tanh(gate[c + 1]) * up[c + 1]});
}

}  // namespace sla2::cuda
