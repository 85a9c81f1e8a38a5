// SPDX-License-Identifier: Apache-2.0
// RoPE positions: head_dim is split t | h | w with d_h = d_w = 2*(d/6); each part is a 1-D RoPE of its own with
// w_j = theta^(-2j/d_part) and the integer patch index as position. Angles in fp64 as in the references; tables fp32.
#include <cmath>

#include "latent/latent.h"

namespace sla2::latent {
namespace {

void fill_axis(int64_t positions, int64_t pairs, double theta, std::vector<float>& cosines, std::vector<float>& sines) {
  cosines.resize(positions * pairs);  // [positions, pairs]
  sines.resize(positions * pairs);
  for (int64_t pair = 0; pair < pairs; ++pair) {
    const double frequency = 1.0 / std::pow(theta, static_cast<double>(pair) / static_cast<double>(pairs));
    for (int64_t position = 0; position < positions; ++position) {
      const double angle = static_cast<double>(position) * frequency;
      cosines[position * pairs + pair] = static_cast<float>(std::cos(angle));
      sines[position * pairs + pair] = static_cast<float>(std::sin(angle));
    }
  }
}

}  // namespace

RopeTables make_rope_tables(int64_t head_dim, const Grid& grid, double theta) {
  constexpr int64_t kSmallestHead = 6;  // one pair on each axis
  SLA2_CHECK(head_dim >= kSmallestHead && head_dim % 2 == 0, SLA2_E_ARGUMENT,
             "RoPE: expected an even head size of at least {}, got {}", kSmallestHead, head_dim);
  SLA2_CHECK(grid.frames > 0 && grid.height > 0 && grid.width > 0, SLA2_E_ARGUMENT,
             "RoPE: expected a positive grid, got {} x {} x {}", grid.frames, grid.height, grid.width);
  SLA2_CHECK(std::isfinite(theta) && theta > 0, SLA2_E_ARGUMENT, "RoPE: expected theta > 0, got {}", theta);
  RopeTables tables;
  tables.head_dim = head_dim;
  tables.pairs_h = tables.pairs_w = head_dim / 6;
  tables.pairs_t = head_dim / 2 - 2 * tables.pairs_h;
  fill_axis(grid.frames, tables.pairs_t, theta, tables.cos_t, tables.sin_t);
  fill_axis(grid.height, tables.pairs_h, theta, tables.cos_h, tables.sin_h);
  fill_axis(grid.width, tables.pairs_w, theta, tables.cos_w, tables.sin_w);
  return tables;
}

}  // namespace sla2::latent
