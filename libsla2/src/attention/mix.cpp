// SPDX-License-Identifier: Apache-2.0
// a: how much of each row the softmax branch speaks.
#include <cmath>
#include <limits>

#include "attention/forward.h"
#include "attention/rules.h"

namespace sla2::attention {
namespace {

constexpr double kLn2 = 0.6931471805599453;

/// log Σ over the linear branch's blocks of their weight · b_j · exp(R_j), R without learned weights: the pooled estimate of what
/// the softmax would have given the rest.
double rest_log_sum(const Call& call, const Selection& selection, const WorkerBuffers& w) {
  const Geometry& g = call.geometry;
  const Blocks& linear = selection.linear;
  const double* const scores = has_weights(call.in.parameters) ? w.identity : w.routes;
  double top = -std::numeric_limits<double>::infinity();
  for (int64_t i = 0; i < linear.count; ++i) top = std::max(top, scores[linear.index[i]]);
  double sum = 0;
  for (int64_t i = 0; i < linear.count; ++i) {
    const int64_t j = linear.index[i];
    const double weight = selection.linear_weights == nullptr ? 1 : selection.linear_weights[j];
    sum += weight * static_cast<double>(g.key_rows(j)) * std::exp(scores[j] - top);
  }
  return top + std::log(sum);
}

/// logit = scale · (L - L_rest) + bias.
struct Logit {
  double scale, bias;
};

Logit logit_of(const Call& call, const Place& place) {
  const Geometry& g = call.geometry;
  const Config& c = g.config;
  const float* const learned = call.in.parameters.mix;
  const int64_t head = place.head % c.heads;
  if (learned == nullptr) return {c.mix == Mix::kHeadAffineLse ? c.mix_scale : 0, c.mix_bias};
  switch (c.mix) {
    case Mix::kHeadScalar: return {0, static_cast<double>(learned[head])};
    case Mix::kBlock: return {0, static_cast<double>(learned[head * g.query_blocks + place.block])};
    default: return {static_cast<double>(learned[2 * head]), static_cast<double>(learned[2 * head + 1])};
  }
}

}  // namespace

double mix(const Call& call, const Place& place, const Selection& selection, const WorkerBuffers& w) {
  const bool by_lse = call.geometry.config.mix == Mix::kHeadAffineLse;
  const Logit learned = logit_of(call, place);
  const double rest = by_lse ? rest_log_sum(call, selection, w) : 0;
  double linear_weight = 0;
  for (int64_t r = 0; r < place.rows; ++r) {
    const double l = static_cast<double>(w.l[r]);
    double logit = learned.bias;
    if (by_lse) {
      const double log_sum = (static_cast<double>(w.m[r]) + std::log2(l)) * kLn2;  // natural, on keys minus their mean
      logit += learned.scale * (log_sum - rest);
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
