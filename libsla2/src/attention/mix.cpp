// SPDX-License-Identifier: Apache-2.0
// a: how much of each row the softmax branch speaks.
#include <cmath>
#include <limits>

#include "attention/forward.h"

namespace sla2::attention {
namespace {

constexpr double kLn2 = 0.6931471805599453;

/// log Σ over the complement of b_j · exp(R_j): the pooled estimate of what the softmax would have given the rest.
double rest_log_sum(const Geometry& g, const WorkerBuffers& w) {
  double top = -std::numeric_limits<double>::infinity();
  for (int64_t i = g.kept; i < g.key_blocks; ++i) top = std::max(top, w.routes[w.order[i]]);
  double sum = 0;
  for (int64_t i = g.kept; i < g.key_blocks; ++i)
    sum += static_cast<double>(g.key_rows(w.order[i])) * std::exp(w.routes[w.order[i]] - top);
  return top + std::log(sum);
}

}  // namespace

double mix(const Geometry& g, int64_t n, const WorkerBuffers& w) {
  const double rest = g.config.mix == Mix::kHeadAffineLse ? rest_log_sum(g, w) : 0;
  double linear_weight = 0;
  for (int64_t r = 0; r < n; ++r) {
    const double l = static_cast<double>(w.l[r]);
    double logit = g.config.mix_bias;
    if (g.config.mix == Mix::kHeadAffineLse) {
      const double log_sum = (static_cast<double>(w.m[r]) + std::log2(l)) * kLn2;  // natural, on keys minus their mean
      logit += g.config.mix_scale * (log_sum - rest);
    }
    // Both shares from one exponential, so that 1 - a keeps its digits when a is close to 1.
    const double away = std::exp(-std::abs(logit));
    const double big = 1 / (1 + away), small = away / (1 + away);
    double a = logit >= 0 ? big : small, one_minus_a = logit >= 0 ? small : big;
    if (std::isnan(logit)) a = one_minus_a = logit;
    if (w.w_linear[r] == 0) {  // nothing left for the linear branch
      a = 1;
      one_minus_a = 0;
    }
    w.w_sparse[r] = static_cast<float>(a / l);
    w.w_linear[r] = static_cast<float>(one_minus_a * static_cast<double>(w.w_linear[r]));
    linear_weight += one_minus_a;
  }
  return linear_weight;
}

}  // namespace sla2::attention
