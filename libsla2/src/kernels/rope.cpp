// SPDX-License-Identifier: Apache-2.0
#include "kernels/rope.h"

#include <algorithm>

#include "core/core.h"
#include "kernels/norm.h"

namespace sla2::kernels {

namespace {

constexpr int64_t kRowGrain = 16;
constexpr int64_t kMaxPairs = 256;  // head_dim up to 512

float* append(const float* table, const RopeAxis& axis, int64_t position, float* target) {
  return std::copy_n(table + position * axis.pairs, axis.pairs, target);
}

}  // namespace

const RopeTable& rope() {
  static const RopeTable& table = active_isa() >= Isa::kAvx2 ? rope_avx2() : rope_ref();
  return table;
}

void rms_norm_rope(float* x, int64_t ldx, const float* weight, float eps, const RopeGrid& grid, int64_t first_token, int64_t rows,
                   int64_t heads) {
  const int64_t pairs = grid.head_dim() / 2, width = heads * grid.head_dim();
  SLA2_CHECK(pairs <= kMaxPairs, SLA2_E_UNSUPPORTED, "rotary embedding: head_dim {} is more than {}", 2 * pairs, 2 * kMaxPairs);
  parallel_ranges(rows, kRowGrain, [&](int64_t begin, int64_t end, int) {
    float cosine[kMaxPairs], sine[kMaxPairs];
    for (int64_t row = begin; row < end; ++row) {
      const int64_t at = first_token + row, token = grid.order == nullptr ? at : grid.order[at],
                    place_w = token % grid.w.positions;
      const int64_t place_h = token / grid.w.positions % grid.h.positions,
                    place_t = token / (grid.w.positions * grid.h.positions);
      append(grid.w.cosine, grid.w, place_w,
             append(grid.h.cosine, grid.h, place_h, append(grid.t.cosine, grid.t, place_t, cosine)));
      append(grid.w.sine, grid.w, place_w, append(grid.h.sine, grid.h, place_h, append(grid.t.sine, grid.t, place_t, sine)));
      float* run = x + row * ldx;
      norm().rms_norm_row(run, weight, eps, run, static_cast<size_t>(width));
      rope().rotate_row(run, cosine, sine, static_cast<size_t>(heads), static_cast<size_t>(pairs));
    }
  });
}

}  // namespace sla2::kernels
