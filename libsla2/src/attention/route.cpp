// SPDX-License-Identifier: Apache-2.0
// Which key blocks a query block keeps: scores of block means, then the rule of the router.
#include <algorithm>

#include "attention/forward.h"
#include "attention/rules.h"
#include "kernels/top_blocks.h"

namespace sla2::attention {
namespace {

/// q_mean · W_q · W_kᵀ: the router's two matrices, both on the query's side, so that key heads are pooled once for all heads.
void project_query(const Call& call, int64_t head, const WorkerBuffers& w) {
  const Parameters& p = call.in.parameters;
  const int64_t dim = call.geometry.dim, at = p.router_heads == 1 ? 0 : head % call.geometry.config.heads * dim * dim;
  for (int64_t c = 0; c < dim; ++c) w.line[c] = static_cast<double>(w.q_mean[c]);
  double* x = w.line;
  double* y = w.line + dim;
  if (p.router_q != nullptr) {
    std::fill_n(y, dim, 0.0);
    for (int64_t c = 0; c < dim; ++c)
      for (int64_t e = 0; e < dim; ++e) y[e] += x[c] * static_cast<double>(p.router_q[at + c * dim + e]);
    std::swap(x, y);
  }
  if (p.router_k != nullptr) {
    for (int64_t c = 0; c < dim; ++c) {
      y[c] = 0;
      for (int64_t e = 0; e < dim; ++e) y[c] += x[e] * static_cast<double>(p.router_k[at + c * dim + e]);
    }
    std::swap(x, y);
  }
  for (int64_t c = 0; c < dim; ++c) w.q_projected[c] = static_cast<float>(x[c]);
}

void score(const Call& call, const HeadBuffers& head, const Place& place, const float* q_rows, const WorkerBuffers& w) {
  const Geometry& g = call.geometry;
  call.ops.mean_rows(q_rows, place.rows, g.dim, w.q_mean, 1);
  if (!has_weights(call.in.parameters)) {
    call.ops.route_scores(g.dim, g.route_row, w.q_mean, head.means, g.scale, w.routes);
    return;
  }
  project_query(call, place.head, w);
  call.ops.route_scores(g.dim, g.route_row, w.q_projected, head.means, g.scale, w.routes);
  if (g.mode == Mode::kSla2) call.ops.route_scores(g.dim, g.route_row, w.q_mean, head.means, g.scale, w.identity);
}

void mark_given(const Call& call, const Place& place, uint8_t* marks) {
  const int64_t row = place.head * call.geometry.query_blocks + place.block, count = call.geometry.key_blocks;
  if (call.in.given_mask != nullptr) {
    for (int64_t j = 0; j < count; ++j) marks[j] = call.in.given_mask[row * count + j] != 0 ? kKept : kRest;
    return;
  }
  std::fill_n(marks, count, kRest);
  const BlockList& list = *call.in.given;
  for (int64_t i = 0; i < list.count[row]; ++i) marks[list.index[row * list.capacity + i]] = kKept;
}

struct Counts {
  int64_t dropped, kept;
};

/// w.order: dropped blocks, kept ones, the rest, each ascending. What one branch reads is then one stretch, and so is the rest.
Counts sort_by_mark(int64_t count, const uint8_t* marks, int32_t* order) {
  int64_t at = 0;
  int64_t ends[3] = {};
  for (const uint8_t mark : {kDropped, kKept, kRest}) {
    for (int64_t j = 0; j < count; ++j)
      if (marks[j] == mark) order[at++] = static_cast<int32_t>(j);
    ends[mark] = at;
  }
  return {ends[kDropped], ends[kKept] - ends[kDropped]};
}

Selection select_soft(const Call& call, const WorkerBuffers& w) {
  const Geometry& g = call.geometry;
  soft_top_k(g.key_blocks, g.top_k, g.config.tau, w.routes, w.mask);
  Selection s{{nullptr, g.key_blocks}, {call.workspace.all_blocks, g.key_blocks}, {}};
  s.weight = static_cast<double>(g.top_k);
  if (g.mode == Mode::kSla2 || (g.mode == Mode::kSla1 && g.config.scope == Scope::kComplement)) {
    for (int64_t j = 0; j < g.key_blocks; ++j) w.linear_weights[j] = 1 - w.mask[j];
    s.linear_weights = w.linear_weights;
  }
  return s;
}

}  // namespace

Selection route(const Call& call, const HeadBuffers& head, const Place& place, const float* q_rows, const WorkerBuffers& w) {
  const Geometry& g = call.geometry;
  score(call, head, place, q_rows, w);
  if (g.soft) return select_soft(call, w);
  Counts counts{0, g.top_k};
  if (is_plain_top_k(g)) {
    kernels::top_blocks(g.key_blocks, g.top_k, w.routes, w.order);
  } else {
    if (g.config.router == Router::kGiven) {
      mark_given(call, place, w.marks);
    } else {
      const double theta = g.config.theta;
      const bool sparge = g.config.router == Router::kSparge;
      const bool odd = sparge && self_similarity(q_rows, place.rows, g.dim, w.line) < theta;
      mark_blocks(g, {place.block, w.routes, sparge ? head.likeness : nullptr, odd}, {w.marks, w.ranked, w.share});
    }
    counts = sort_by_mark(g.key_blocks, w.marks, w.order);
  }
  const auto [dropped, kept] = counts;
  const int64_t all = g.key_blocks, seen = dropped + kept;
  Selection s{{w.order + dropped, kept}, {w.order + seen, all - seen}, {w.order, seen}};
  s.weight = static_cast<double>(kept);
  const bool everywhere = g.mode == Mode::kLPlusS || (g.mode == Mode::kSla1 && g.config.scope == Scope::kGlobal);
  if (everywhere) s.linear = {w.order + dropped, all - dropped}, s.not_linear = {w.order, dropped};
  return s;
}

}  // namespace sla2::attention
