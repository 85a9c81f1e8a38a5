// SPDX-License-Identifier: Apache-2.0
// Which key blocks a query block keeps: scores of block means, then the best of the row.
#include "attention/forward.h"
#include "kernels/top_blocks.h"

namespace sla2::attention {

Selection route(const Call& call, const HeadBuffers& head, int64_t n, const float* q_rows, const WorkerBuffers& w) {
  const Geometry& g = call.geometry;
  call.ops.mean_rows(q_rows, n, g.dim, w.q_mean, 1);
  call.ops.route_scores(g.dim, g.route_row, w.q_mean, head.means, g.scale, w.routes);
  kernels::top_blocks(g.key_blocks, g.kept, w.routes, w.order);
  const Blocks kept{w.order, g.kept}, rest{w.order + g.kept, g.key_blocks - g.kept};
  return {kept, rest, kept};
}

}  // namespace sla2::attention
