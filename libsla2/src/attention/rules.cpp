// SPDX-License-Identifier: Apache-2.0
#include "attention/rules.h"

#include <algorithm>
#include <cmath>

#include "kernels/same_exp.h"

namespace sla2::attention {
namespace {

constexpr double kNone = -std::numeric_limits<double>::infinity();

/// Falling scores, NaN first (broken input must reach the output), ties to the lowest index.
bool before(const double* scores, int32_t x, int32_t y) {
  const bool x_nan = std::isnan(scores[x]), y_nan = std::isnan(scores[y]);
  if (x_nan != y_nan) return x_nan;
  if (!x_nan && scores[x] != scores[y]) return scores[x] > scores[y];
  return x < y;
}

/// Softmax over ranked[0, count), into share; where it is cut must not depend on the machine.
void share_by_softmax(const double* scores, const int32_t* ranked, int64_t count, double* share) {
  double sum = 0;
  for (int64_t n = 0; n < count; ++n)
    sum += share[n] = kernels::same_exp<kernels::PlainMath>(scores[ranked[n]] - scores[ranked[0]]);
  for (int64_t n = 0; n < count; ++n) share[n] /= sum;
}

/// VMoBA: scores stretched to 0 … 1 over the row, then divided by their sum; equal scores share alike.
void share_by_stretch(const double* scores, const int32_t* ranked, int64_t count, double* share) {
  const double high = scores[ranked[0]], low = scores[ranked[count - 1]];
  double sum = 0;
  for (int64_t n = 0; n < count; ++n) sum += share[n] = high > low ? (scores[ranked[n]] - low) / (high - low) : 1.0;
  for (int64_t n = 0; n < count; ++n) share[n] /= sum;
}

/// Shortest prefix that sums to at least p.
int64_t shortest_prefix(const double* share, int64_t count, double p) {
  double sum = 0;
  int64_t n = 0;
  while (n < count && sum < p) sum += share[n++];
  return std::max<int64_t>(n, 1);
}

/// Longest prefix that sums to at most p, at least one. All of them sum to 1, whatever that rounds to.
int64_t longest_prefix(const double* share, int64_t count, double p) {
  double sum = 0;
  int64_t n = p >= 1 ? count : 0;
  while (n < count && (sum += share[n]) <= p) ++n;
  return std::max<int64_t>(n, 1);
}

/// How many of the ranked blocks are kept by score.
int64_t count_by_rule(const Geometry& g, const RuleInput& in, const RuleScratch& out, int64_t ranked, int64_t always) {
  const Config& c = g.config;
  switch (c.router) {
    case Router::kVmoba:
      share_by_stretch(in.scores, out.ranked, ranked, out.share);
      return shortest_prefix(out.share, ranked, c.top_p);
    case Router::kSparge: {
      if (ranked == 0) return 0;
      const int64_t top_k = std::min(g.top_k, ranked);
      if (c.rule == Rule::kTopK) return top_k;
      share_by_softmax(in.scores, out.ranked, ranked, out.share);
      if (c.rule == Rule::kCdf) return longest_prefix(out.share, ranked, c.top_p);
      return std::max(top_k, shortest_prefix(out.share, ranked, c.top_p));
    }
    default: return std::max(g.top_k, always);  // protected blocks rank first and count
  }
}

}  // namespace

bool is_plain_top_k(const Geometry& g) {
  const Config& c = g.config;
  if (g.protects() || c.negligible > 0) return false;
  return c.router == Router::kSla2 || c.router == Router::kSla1 || c.router == Router::kVsa;
}

void mark_blocks(const Geometry& g, const RuleInput& in, const RuleScratch& out) {
  const Config& c = g.config;
  const int64_t count = g.key_blocks;
  const bool first_by_protection = c.router != Router::kVmoba && c.router != Router::kSparge;
  uint8_t* const marks = out.marks;
  int64_t always = 0, ranked = 0;
  for (int64_t j = 0; j < count; ++j) {
    const bool odd = in.likeness != nullptr && in.likeness[j] < c.theta;
    const bool kept = odd || in.keep_all || g.is_protected(in.query_block, j);
    marks[j] = kept ? kKept : kRest;
    always += kept ? 1 : 0;
    if (!odd) out.ranked[ranked++] = static_cast<int32_t>(j);
  }
  std::sort(out.ranked, out.ranked + ranked, [&](int32_t x, int32_t y) {
    if (first_by_protection && marks[x] != marks[y]) return marks[x] == kKept;
    return before(in.scores, x, y);
  });
  const int64_t kept = count_by_rule(g, in, out, ranked, always);
  for (int64_t n = 0; n < kept; ++n) marks[out.ranked[n]] = kKept;
  const int64_t least = std::min<int64_t>(std::llround(c.negligible * static_cast<double>(count)), ranked - kept);
  for (int64_t n = ranked - least; n < ranked; ++n) marks[out.ranked[n]] = kDropped;
}

}  // namespace sla2::attention
