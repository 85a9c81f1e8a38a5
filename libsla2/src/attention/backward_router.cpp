// SPDX-License-Identifier: Apache-2.0
// What reaches the router: R = s·(Q̄ W_q)(K̄ W_k)ᵀ feeds SoftTop-k's mask and VSA's coarse branch. All in fp64: T_m·T_n·D at most.
#include <cmath>

#include "attention/backward_parts.h"
#include "attention/forward.h"

namespace sla2::attention {
namespace {

/// The router's matrix for one head, or null: identity.
const float* weights_of(const BackwardCall& call, const float* all, int64_t head) {
  const int64_t d = call.shape.dim;
  return all == nullptr || call.in.parameters.router_heads == 1 ? all : all + head % call.shape.config.heads * d * d;
}

/// out = x · W
void times(const float* weights, int64_t dim, const double* x, double* out) {
  if (weights == nullptr) {
    std::copy_n(x, dim, out);
    return;
  }
  std::fill_n(out, dim, 0.0);
  for (int64_t e = 0; e < dim; ++e)
    for (int64_t c = 0; c < dim; ++c) out[c] += x[e] * static_cast<double>(weights[e * dim + c]);
}

/// out += x · Wᵀ
void add_times_turned(const float* weights, int64_t dim, const double* x, double* out) {
  for (int64_t e = 0; e < dim; ++e) {
    double sum = weights == nullptr ? x[e] : 0;
    for (int64_t c = 0; c < dim && weights != nullptr; ++c) sum += x[c] * static_cast<double>(weights[e * dim + c]);
    out[e] += sum;
  }
}

/// dR of one row: through the coarse softmax, and through SoftTop-k, whose shift keeps the row's sum: dx −= v·Σdx / Σv, v = M(1 −
/// M).
void score_gradient(const BackwardCall& call, const UnitBuffers& b, int64_t u) {
  const BackwardShape& s = call.shape;
  double* const d_scores = b.d_scores + u * s.key_blocks;
  std::fill_n(d_scores, s.key_blocks, 0.0);
  if (call.coarse) {
    const double *const weights = b.coarse_weights + u * s.key_blocks, *const d = b.d_coarse + u * s.dim;
    double mean = 0;
    for (int64_t j = 0; j < s.key_blocks; ++j) {
      for (int64_t c = 0; c < s.dim; ++c) d_scores[j] += d[c] * b.v_means[j * s.dim + c];
      mean += weights[j] * d_scores[j];
    }
    for (int64_t j = 0; j < s.key_blocks; ++j) d_scores[j] = weights[j] * (d_scores[j] - mean);
  }
  if (!s.soft) return;
  const double *const mask = b.mask + u * s.key_blocks, *const d_logit = b.d_logit + u * s.key_blocks;
  double sum = 0, spread = 0;
  for (int64_t j = 0; j < s.key_blocks; ++j) sum += d_logit[j], spread += mask[j] * (1 - mask[j]);
  if (spread == 0) return;
  for (int64_t j = 0; j < s.key_blocks; ++j) d_scores[j] += (d_logit[j] - mask[j] * (1 - mask[j]) * sum / spread) / s.config.tau;
}

void query_means(const BackwardCall& call, int64_t unit, int64_t u) {
  const BackwardShape& s = call.shape;
  const UnitBuffers b = call.space.unit(unit);
  score_gradient(call, b, u);
  const double *const right = b.right + u / s.query_blocks * s.key_blocks * s.dim, *const d_scores =
                                                                                       b.d_scores + u * s.key_blocks;
  double *const d_left = b.d_left + u * s.dim, *const d_mean = b.d_mean_q + u * s.dim;
  std::fill_n(d_left, s.dim, 0.0);
  std::fill_n(d_mean, s.dim, 0.0);
  for (int64_t j = 0; j < s.key_blocks; ++j)
    for (int64_t c = 0; c < s.dim; ++c) d_left[c] += s.scale * d_scores[j] * right[j * s.dim + c];
  add_times_turned(weights_of(call, call.in.parameters.router_q, call.head_of(unit, u)), s.dim, d_left, d_mean);
}

/// Gradients of the mean key and mean value of block j: as pooled keys, through R, through the coarse branch.
void key_means(const BackwardCall& call, int64_t unit, int64_t j) {
  const BackwardShape& s = call.shape;
  const UnitBuffers b = call.space.unit(unit);
  double *const d_k = b.d_mean_k + j * s.dim, *const d_v = b.d_mean_v + j * s.dim;
  const int64_t pooled = (s.key_blocks * s.block_k + j) * s.width;
  for (int64_t c = 0; c < s.dim; ++c) {
    d_k[c] = s.pooled ? static_cast<double>(b.d_k[pooled + c]) : 0;
    d_v[c] = s.pooled ? static_cast<double>(b.d_v[pooled + c]) : 0;
  }
  if (call.coarse)
    for (int64_t u = 0; u < s.blocks; ++u)
      for (int64_t c = 0; c < s.dim; ++c) d_v[c] += b.coarse_weights[u * s.key_blocks + j] * b.d_coarse[u * s.dim + c];
  if (!s.soft && !call.coarse) return;
  for (int64_t r = 0; r < s.sharing; ++r) {
    double* const d_right = b.d_right + (r * s.key_blocks + j) * s.dim;
    std::fill_n(d_right, s.dim, 0.0);
    for (int64_t u = r * s.query_blocks; u < (r + 1) * s.query_blocks; ++u)
      for (int64_t c = 0; c < s.dim; ++c) d_right[c] += s.scale * b.d_scores[u * s.key_blocks + j] * b.left[u * s.dim + c];
    add_times_turned(weights_of(call, call.in.parameters.router_k, call.head_of(unit, r * s.query_blocks)), s.dim, d_right, d_k);
  }
}

/// Row c of dW_q = Q̄ᵀ·d(Q̄W_q) and of dW_k, added up over the group.
void weight_row(const BackwardCall& call, int64_t c) {
  const BackwardShape& s = call.shape;
  const bool shared = call.in.parameters.router_heads == 1;
  for (int64_t unit = 0; unit < call.count; ++unit) {
    const UnitBuffers b = call.space.unit(unit);
    for (int64_t u = 0; u < s.blocks; ++u) {
      const int64_t head = shared ? 0 : call.head_of(unit, u) % s.config.heads;
      double* const row = call.space.d_w_q + (head * s.dim + c) * s.dim;
      const double mean = static_cast<double>(b.q_means[u * s.dim + c]);
      for (int64_t e = 0; e < s.dim; ++e) row[e] += mean * b.d_left[u * s.dim + e];
    }
    for (int64_t r = 0; r < s.sharing; ++r) {
      const int64_t head = shared ? 0 : call.head_of(unit, r * s.query_blocks) % s.config.heads;
      double* const row = call.space.d_w_k + (head * s.dim + c) * s.dim;
      for (int64_t j = 0; j < s.key_blocks; ++j) {
        const double mean = static_cast<double>(b.means[c * s.route_row + j]);
        for (int64_t e = 0; e < s.dim; ++e) row[e] += mean * b.d_right[(r * s.key_blocks + j) * s.dim + e];
      }
    }
  }
}

}  // namespace

void backward_key_scores(const BackwardCall& call, int64_t unit, const BackwardWorker& w) {
  const BackwardShape& s = call.shape;
  const UnitBuffers b = call.space.unit(unit);
  for (int64_t r = 0; r < s.sharing; ++r)
    for (int64_t j = 0; j < s.key_blocks; ++j) {
      for (int64_t c = 0; c < s.dim; ++c) w.z_sum[c] = static_cast<double>(b.means[c * s.route_row + j]);
      times(weights_of(call, call.in.parameters.router_k, call.head_of(unit, r * s.query_blocks)), s.dim, w.z_sum,
            b.right + (r * s.key_blocks + j) * s.dim);
    }
}

void backward_scores(const BackwardCall& call, const UnitBuffers& b, int64_t unit, int64_t u, const BackwardWorker& w) {
  const BackwardShape& s = call.shape;
  double *const left = b.left + u * s.dim, *const scores = b.scores + u * s.key_blocks;
  const double* const right = b.right + u / s.query_blocks * s.key_blocks * s.dim;
  for (int64_t c = 0; c < s.dim; ++c) w.z_sum[c] = static_cast<double>(b.q_means[u * s.dim + c]);
  times(weights_of(call, call.in.parameters.router_q, call.head_of(unit, u)), s.dim, w.z_sum, left);
  for (int64_t j = 0; j < s.key_blocks; ++j) {
    double sum = 0;
    for (int64_t c = 0; c < s.dim; ++c) sum += left[c] * right[j * s.dim + c];
    scores[j] = s.scale * sum;
  }
  if (s.soft) soft_top_k(s.key_blocks, s.top_k, s.config.tau, scores, b.mask + u * s.key_blocks);
  if (!call.coarse) return;
  double *const weights = b.coarse_weights + u * s.key_blocks, *const coarse = b.coarse + u * s.dim;
  const double top = *std::max_element(scores, scores + s.key_blocks);
  double total = 0;
  for (int64_t j = 0; j < s.key_blocks; ++j) total += weights[j] = std::exp(scores[j] - top);
  std::fill_n(coarse, s.dim, 0.0);
  for (int64_t j = 0; j < s.key_blocks; ++j) {
    weights[j] /= total;
    for (int64_t c = 0; c < s.dim; ++c) coarse[c] += weights[j] * b.v_means[j * s.dim + c];
  }
}

void backward_router(const BackwardCall& call) {
  const BackwardShape& s = call.shape;
  if (!s.means()) return;
  const bool routed = s.soft || call.coarse;
  if (routed)
    for_units(call, s.blocks,
              [](const BackwardCall& c, int64_t unit, int64_t u, const BackwardWorker&) { query_means(c, unit, u); });
  for_units(call, s.key_blocks,
            [](const BackwardCall& c, int64_t unit, int64_t j, const BackwardWorker&) { key_means(c, unit, j); });
  const Gradients& g = call.in.gradients;
  if (routed && (g.router_q != nullptr || g.router_k != nullptr))
    parallel_for(s.dim, [&call](int64_t c, int) { weight_row(call, c); });
}

}  // namespace sla2::attention
