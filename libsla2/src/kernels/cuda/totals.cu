// SPDX-License-Identifier: Apache-2.0
// Totals of the linear branch over all keys: Σ φ(K)ᵀ·V in parts, then the parts, and z, in a fixed order.
#include "kernels/cuda/params.h"
#include "kernels/cuda/state.h"

namespace sla2::cuda {
namespace {

/// W / 16 warps, one for each 16 rows of the state.
template <int kWidth>
SLA2_DEVICE void add_part(const TotalsParams& p) {
  const uint32_t warp = thread_index() / 32, g = thread_index() % 32 / 4, t = thread_index() % 4;
  const int64_t head = block_y(), first = static_cast<int64_t>(block_x()) * p.tiles_per_part;
  const int64_t left = p.tiles - first;
  const auto tiles = static_cast<uint32_t>(left < p.tiles_per_part ? (left < 0 ? 0 : left) : p.tiles_per_part);
  State<kWidth> state;
  state.clear();
  const int64_t at = head * p.tiles * static_cast<int64_t>(State<kWidth>::kTile);
  const typename State<kWidth>::Source source{p.features + at, p.values + at};
  int64_t key = first * kTileKeys;
  const auto fill = [&](uint32_t stage) {
    source.copy(stage, 0, key, kStreamKeys);
    key += kStreamKeys;
  };
  state.add(0, tiles * (kTileKeys / kStreamKeys), true, warp, fill);
  float* const out = p.partial + (head * p.parts + block_x()) * kWidth * kWidth + (16 * warp + g) * kWidth + 2 * t;
  for (int n = 0; n < kWidth / 8; ++n)
    for (int i = 0; i < 4; ++i) out[(i / 2 * 8) * kWidth + n * 8 + i % 2] = state.sum[n][i];
}

}  // namespace

SLA2_KERNEL(sla2_totals_64, 128, 2, TotalsParams) { add_part<64>(p); }
SLA2_KERNEL(sla2_totals_128, 256, 2, TotalsParams) { add_part<128>(p); }

SLA2_KERNEL(sla2_sum_totals, 256, 1, SumTotalsParams) {
  const int64_t head = block_y(), size = static_cast<int64_t>(p.width) * p.width;
  const int64_t i = static_cast<int64_t>(block_x()) * thread_count() + thread_index();
  if (i < size) {
    float sum = 0;
    for (int32_t part = 0; part < p.parts; ++part) sum += p.partial[(head * p.parts + part) * size + i];
    p.state_total[head * size + i] = sum;
  } else if (i - size < p.width) {
    const int64_t c = i - size;
    TwoSum sum;
    for (int32_t j = 0; j < p.key_blocks; ++j) sum.add(p.z[(head * p.key_blocks + j) * p.width + c]);
    p.z_total[head * 2 * p.width + c] = sum.high;
    p.z_total[(head * 2 + 1) * p.width + c] = sum.low;
  }
}

}  // namespace sla2::cuda
