// SPDX-License-Identifier: Apache-2.0
// Routers: which key blocks a query block keeps. Scores are block means against block means; rules differ in how many are
// taken. Ties go to the lowest index; a NaN score counts as the largest; protected blocks come first and count.
#include <numeric>

#include "oracle/oracle.h"

namespace sla2::check {
namespace {

constexpr double kRoundOff = 1e-9;  // ceil((1 − 0.7)·10) is 3, whatever the last bit of 1 − 0.7 says

using Row = std::vector<double>;
using Flags = std::vector<bool>;

Table times_or_same(const Table& x, const Table& w) { return w.empty() ? x : product(x, w); }

void scale_all(Table& x, double factor) {
  for (double& value : x.data) value *= factor;
}

int64_t rounded_count(double fraction, int64_t blocks) {
  return std::clamp<int64_t>(std::llround(fraction * static_cast<double>(blocks)), 1, blocks);
}

/// Block indices by falling score, the marked ones first.
std::vector<int64_t> ranking(const double* scores, int64_t count, const Flags& first) {
  std::vector<int64_t> order(static_cast<size_t>(count));
  std::iota(order.begin(), order.end(), int64_t{0});
  std::stable_sort(order.begin(), order.end(), [&](int64_t x, int64_t y) {
    const bool fx = first[static_cast<size_t>(x)], fy = first[static_cast<size_t>(y)];
    if (fx != fy) return fx;
    const bool nx = std::isnan(scores[x]), ny = std::isnan(scores[y]);
    return nx != ny ? nx : scores[x] > scores[y];
  });
  return order;
}

/// Length of the shortest prefix of `share` (in ranking order) that sums to at least p.
int64_t shortest_prefix(const Row& share, const std::vector<int64_t>& order, double p) {
  double sum = 0;
  int64_t n = 0;
  while (n < static_cast<int64_t>(order.size()) && sum < p) sum += share[static_cast<size_t>(order[static_cast<size_t>(n++)])];
  return std::max<int64_t>(n, 1);
}

/// sparge's cdf rule: as many as have a cumulated share ≤ p, at least one.
int64_t count_below(const Row& share, const std::vector<int64_t>& order, double p) {
  if (p >= 1) return static_cast<int64_t>(order.size());  // shares sum to 1, however they round
  double sum = 0;
  int64_t n = 0;
  for (const int64_t j : order) {
    sum += share[static_cast<size_t>(j)];
    if (sum > p) break;
    ++n;
  }
  return std::max<int64_t>(n, 1);
}

Row softmax_share(const double* scores, const Flags& eligible) {
  double top = -INFINITY, sum = 0;
  for (size_t j = 0; j < eligible.size(); ++j)
    if (eligible[j]) top = std::max(top, scores[j]);
  Row share(eligible.size(), 0.0);
  for (size_t j = 0; j < eligible.size(); ++j)
    if (eligible[j]) sum += share[j] = std::exp(scores[j] - top);
  for (double& x : share) x /= sum;
  return share;
}

/// VMoBA: scores stretched to 0 … 1 over the row, then divided by their sum.
Row stretched_share(const double* scores, int64_t count) {
  const auto [low, high] = std::minmax_element(scores, scores + count);
  Row share(static_cast<size_t>(count), 1.0);
  if (*high > *low)
    for (int64_t j = 0; j < count; ++j) share[static_cast<size_t>(j)] = (scores[j] - *low) / (*high - *low);
  const double sum = std::accumulate(share.begin(), share.end(), 0.0);
  for (double& x : share) x /= sum;
  return share;
}

/// Mean cosine over all pairs of rows of each block = ‖mean of the unit rows‖².
Row self_similarity(const Table& x, int64_t block) {
  Table unit = x;
  for (int64_t r = 0; r < x.rows; ++r) {
    const double length = std::sqrt(dot(x.row(r), x.row(r), x.cols));
    for (int64_t c = 0; c < x.cols; ++c) unit(r, c) = length > 0 ? x(r, c) / length : 0;
  }
  const Table mean = block_means(unit, block);
  Row result;
  for (int64_t b = 0; b < mean.rows; ++b) result.push_back(dot(mean.row(b), mean.row(b), x.cols));
  return result;
}

/// First, last and near blocks; "self" are the key blocks that share a token index with the query block.
Flags protected_blocks(const Problem& p, int64_t query_block) {
  const int64_t count = p.key_blocks();
  Flags flags(static_cast<size_t>(count), false);
  const int64_t near = p.router == Router::kVmoba ? std::max<int64_t>(p.protect_near, 0) : p.protect_near;
  const int64_t from = query_block * p.block_q / p.block_k - near;
  const int64_t to = (query_block * p.block_q + rows_in(p.queries, p.block_q, query_block) - 1) / p.block_k + near;
  for (int64_t j = 0; j < count; ++j)
    flags[static_cast<size_t>(j)] = j < p.protect_first || j >= count - p.protect_last || (near >= 0 && j >= from && j <= to);
  return flags;
}

/// SoftTop-k: σ(R/τ + λ) with λ such that the row sums to k; bisection between bounds that hold for any row.
void soft_row(const double* scores, int64_t count, int64_t k, double tau, double* mask) {
  if (k == count) {
    std::fill_n(mask, count, 1.0);
    return;
  }
  const auto [low_score, high_score] = std::minmax_element(scores, scores + count);
  const double share = static_cast<double>(k) / static_cast<double>(count), middle = std::log(share / (1 - share));
  double low = middle - *high_score / tau, high = middle - *low_score / tau;
  for (int step = 0; step < 200; ++step) {
    const double shift = (low + high) / 2;
    double sum = 0;
    for (int64_t j = 0; j < count; ++j) sum += mask[j] = 1 / (1 + std::exp(-(scores[j] / tau + shift)));
    (sum < static_cast<double>(k) ? low : high) = shift;
  }
}

struct Choice {
  std::vector<int64_t> order;
  int64_t kept = 0;
};

/// The rule of one row. `always` gains what the rule forces.
Choice choose(const Problem& p, const double* scores, Flags& always, const Flags& odd_keys, bool dense_row) {
  const int64_t count = p.key_blocks();
  const Flags none(static_cast<size_t>(count), false);
  const auto as_count = [](const Flags& flags) { return static_cast<int64_t>(std::count(flags.begin(), flags.end(), true)); };
  const int64_t rounded = rounded_count(1 - p.sparsity, count);
  switch (p.router) {
    case Router::kVsa: {
      const auto k = static_cast<int64_t>(std::ceil((1 - p.sparsity) * static_cast<double>(count) - kRoundOff));
      return {ranking(scores, count, always), std::max(std::clamp<int64_t>(k, 1, count), as_count(always))};
    }
    case Router::kVmoba: {
      const auto order = ranking(scores, count, none);
      return {order, shortest_prefix(stretched_share(scores, count), order, p.top_p)};
    }
    case Router::kSparge: {
      Flags eligible = odd_keys;
      eligible.flip();
      for (size_t j = 0; j < always.size(); ++j) always[j] = always[j] || odd_keys[j] || dense_row;
      std::vector<int64_t> order;
      for (const int64_t j : ranking(scores, count, none))
        if (eligible[static_cast<size_t>(j)]) order.push_back(j);
      if (order.empty()) return {order, 0};
      const Row share = softmax_share(scores, eligible);
      const int64_t top_k = std::min<int64_t>(rounded, static_cast<int64_t>(order.size()));
      if (p.rule == Rule::kTopK) return {order, top_k};
      if (p.rule == Rule::kCdf) return {order, count_below(share, order, p.top_p)};
      return {order, std::max(top_k, shortest_prefix(share, order, p.top_p))};
    }
    default: return {ranking(scores, count, always), std::max(rounded, as_count(always))};
  }
}

void set_branches(const Problem& p, Selection& s, int64_t row, const Flags& dropped) {
  for (int64_t j = 0; j < s.mask.cols; ++j) {
    const double m = s.mask(row, j);
    const bool out = dropped[static_cast<size_t>(j)];
    switch (p.mode) {
      case Mode::kFull: s.sparse(row, j) = 1; break;
      case Mode::kSla2: s.sparse(row, j) = m, s.linear(row, j) = 1 - m; break;
      case Mode::kSla1: s.sparse(row, j) = m, s.linear(row, j) = out ? 0 : p.scope == Scope::kGlobal ? 1 : 1 - m; break;
      case Mode::kSparseOnly:
      case Mode::kPooled: s.sparse(row, j) = m; break;
      case Mode::kLinearOnly: s.linear(row, j) = 1; break;
      case Mode::kLPlusS: s.sparse(row, j) = m, s.linear(row, j) = 1; break;
    }
  }
}

}  // namespace

Selection select(const Problem& p, const Head& head) {
  const int64_t rows = p.query_blocks(), count = p.key_blocks();
  const Table keys = centred(head.k);
  const Table mean_q = block_means(head.q, p.block_q), mean_k = block_means(keys, p.block_k);
  Selection s;
  s.identity = product(mean_q, transposed(mean_k));
  s.scores = product(times_or_same(mean_q, head.w_q), transposed(times_or_same(mean_k, head.w_k)));
  scale_all(s.identity, p.softmax_scale());
  scale_all(s.scores, p.softmax_scale());
  s.mask = s.sparse = s.linear = Table(rows, count);

  const Row key_likeness = self_similarity(keys, p.block_k), query_likeness = self_similarity(head.q, p.block_q);
  Flags odd_keys(static_cast<size_t>(count), false);
  for (size_t j = 0; j < odd_keys.size(); ++j) odd_keys[j] = p.router == Router::kSparge && key_likeness[j] < p.theta;

  for (int64_t b = 0; b < rows; ++b) {
    const double* const scores = s.scores.row(b);
    Flags dropped(static_cast<size_t>(count), false);
    if (p.mode == Mode::kFull) {
      std::fill_n(s.mask.row(b), count, 1.0);
    } else if (p.router == Router::kGiven) {
      std::copy_n(head.given.row(b), count, s.mask.row(b));
    } else if (p.tau > 0) {
      soft_row(scores, count, rounded_count(1 - p.sparsity, count), p.tau, s.mask.row(b));
    } else {
      Flags always = protected_blocks(p, b);
      const Choice choice = choose(p, scores, always, odd_keys, query_likeness[static_cast<size_t>(b)] < p.theta);
      for (int64_t n = 0; n < choice.kept; ++n) s.mask(b, choice.order[static_cast<size_t>(n)]) = 1;
      for (int64_t j = 0; j < count; ++j)
        if (always[static_cast<size_t>(j)]) s.mask(b, j) = 1;
      const int64_t left = static_cast<int64_t>(choice.order.size()) - choice.kept;
      const int64_t least = std::min<int64_t>(std::llround(p.negligible * static_cast<double>(count)), left);
      for (int64_t n = 0; n < least; ++n)
        dropped[static_cast<size_t>(choice.order[choice.order.size() - 1 - static_cast<size_t>(n)])] = true;
      if (left > 0 && choice.kept > 0) {
        const double kept = scores[choice.order[static_cast<size_t>(choice.kept - 1)]];
        const double next = scores[choice.order[static_cast<size_t>(choice.kept)]];
        const auto [low, high] = std::minmax_element(scores, scores + count);
        if (kept != next) s.closest = std::min(s.closest, std::abs(kept - next) / (*high - *low));  // equal scores tie exactly
      }
    }
    set_branches(p, s, b, dropped);
  }
  return s;
}

}  // namespace sla2::check
