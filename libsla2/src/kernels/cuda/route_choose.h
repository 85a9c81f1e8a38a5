// SPDX-License-Identifier: Apache-2.0
// From scores to blocks: the best n by bisection over order-preserving keys, and how many n is where a rule cuts a cumulated
// share. Ties go to the lowest index, NaN counts as largest, as on the CPU (attention/rules.cpp).
#pragma once
#include "kernels/cuda/route_score.h"
#include "kernels/same_exp.h"

namespace sla2::cuda {

inline constexpr uint64_t kNoCandidate = 0;  ///< below the key of any score

/// Larger numbers have larger keys; any NaN has the largest.
SLA2_DEVICE uint64_t order_key(double score) {
  if (score != score) return ~uint64_t{0};
  const uint64_t bits = double_bits(score == 0 ? 0.0 : score), sign = uint64_t{1} << 63;
  return (bits & sign) != 0 ? ~bits : bits | sign;
}
SLA2_DEVICE double score_of_key(uint64_t key) {
  const uint64_t sign = uint64_t{1} << 63;
  return bits_to_double((key & sign) != 0 ? key ^ sign : ~key);  // the key of NaN gives a NaN
}

/// Flags of a stretch of 128 blocks become places: how many before me, how many in all.
struct Places {
  uint32_t before, all;
};
SLA2_DEVICE Places count_before(bool yes, uint32_t words) {
  const uint32_t lane = thread_index() % 32, warp = thread_index() / 32, bits = ballot(yes);
  sync_threads();
  if (lane == 0) shared_store<uint32_t>(words + warp * 4, count_bits(bits));
  sync_threads();
  Places places{count_bits(bits & ((1U << lane) - 1)), 0};
  for (uint32_t w = 0; w < kRouteWarps; ++w) {
    const uint32_t count = shared_load<uint32_t>(words + w * 4);
    if (w < warp) places.before += count;
    places.all += count;
  }
  return places;
}

/// What one row of the mask is decided by.
struct Row {
  const RouteParams& p;
  RouteMap map;
  int64_t index;           ///< of the row: head · T_m + query block
  const double* likeness;  ///< of this key head's blocks, or null
  bool keep_all;           ///< sparge: the query block is unlike itself
  int64_t first_near, last_near;

  [[nodiscard]] SLA2_DEVICE bool is_odd(uint32_t j) const { return likeness != nullptr && likeness[j] < p.theta; }
  [[nodiscard]] SLA2_DEVICE bool is_protected(uint32_t block) const {
    const auto j = static_cast<int32_t>(block);
    return j < p.protect_first || j >= p.key_blocks - p.protect_last ||
           (p.protect_near >= 0 && j >= first_near && j <= last_near);
  }
  [[nodiscard]] SLA2_DEVICE bool is_given(uint32_t j) const {
    if (p.given_mask != nullptr) return p.given_mask[index * p.key_blocks + j] != 0;
    return p.given != nullptr && shared_load<uint16_t>(map.extra + j * 2) != 0;
  }
  /// Kept whatever its score.
  [[nodiscard]] SLA2_DEVICE bool is_always(uint32_t j) const { return keep_all || is_protected(j) || is_odd(j) || is_given(j); }
  /// Protected blocks count among the kept of a fixed number; odd ones never take part in the ranking.
  [[nodiscard]] SLA2_DEVICE bool is_candidate(uint32_t j) const {
    return p.rule == kRuleTop ? !is_protected(j) : p.rule != kRuleGiven && !is_odd(j);
  }
  [[nodiscard]] SLA2_DEVICE uint64_t key(uint32_t j) const {
    return is_candidate(j) ? order_key(shared_load<double>(map.scores + j * 8)) : kNoCandidate;
  }
};

SLA2_DEVICE uint32_t count_candidates(const Row& row) {
  uint32_t mine = 0;
  for (uint32_t j = thread_index(); j < static_cast<uint32_t>(row.p.key_blocks); j += kPrepareThreads)
    mine += row.is_candidate(j) ? 1 : 0;
  return block_sum(mine, row.map.words);
}

/// The best `count` candidates, asked for in stretches of 128 blocks, in order.
struct Best {
  uint64_t threshold;
  uint32_t equals, seen;  ///< of those with the threshold's key: how many belong, how many have passed

  SLA2_DEVICE bool has(uint64_t key, uint32_t words) {
    const bool equal = key == threshold;
    const Places ties = count_before(equal, words);
    const bool yes = key > threshold || (equal && seen + ties.before < equals);
    seen += ties.all;
    return yes;
  }
};

/// The threshold is found bit by bit from the top: how many keys are at least that large?
SLA2_DEVICE Best find_best(const Row& row, uint32_t count) {
  const auto blocks = static_cast<uint32_t>(row.p.key_blocks);
  if (count == 0) return {~uint64_t{0}, 0, 0};
  uint64_t found = 0;
  for (int bit = 63; bit >= 0; --bit) {
    const uint64_t candidate = found | uint64_t{1} << bit;
    uint32_t mine = 0;
    for (uint32_t j = thread_index(); j < blocks; j += kPrepareThreads) mine += row.key(j) >= candidate ? 1 : 0;
    if (block_sum(mine, row.map.words + bit % 2 * kRouteWarps * 4) >= count) found = candidate;
  }
  uint32_t above = 0;
  for (uint32_t j = thread_index(); j < blocks; j += kPrepareThreads) above += row.key(j) > found ? 1 : 0;
  return {found, count - block_sum(above, row.map.words), 0};
}

/// Keys in the place of the scores, falling; `size` is a power of two. The rest of it is no candidate.
SLA2_DEVICE void sort_keys(const Row& row, uint32_t size) {
  const uint32_t at = row.map.scores;
  for (uint32_t j = thread_index(); j < size; j += kPrepareThreads) {
    const uint64_t key = j < static_cast<uint32_t>(row.p.key_blocks) ? row.key(j) : kNoCandidate;
    shared_store<uint64_t>(at + j * 8, key);
  }
  sync_threads();
  for (uint32_t run = 2; run <= size; run *= 2)
    for (uint32_t step = run / 2; step > 0; step /= 2) {
      for (uint32_t i = thread_index(); i < size / 2; i += kPrepareThreads) {
        const uint32_t low = i / step * step * 2 + i % step, high = low + step;
        const auto x = shared_load<uint64_t>(at + low * 8), y = shared_load<uint64_t>(at + high * 8);
        if ((low & run) == 0 ? x < y : x > y) shared_store<uint64_t>(at + low * 8, y), shared_store<uint64_t>(at + high * 8, x);
      }
      sync_threads();
    }
}

struct RoundedMath {
  static SLA2_DEVICE double multiply(double x, double y) { return multiply_rounded(x, y); }
  static SLA2_DEVICE double add(double x, double y) { return add_rounded(x, y); }
  static SLA2_DEVICE double from_bits(uint64_t bits) { return bits_to_double(bits); }
};

/// How many of the `ranked` candidates it takes to reach p.top_p of the cumulated share: at least that much (kRuleStretch,
/// kRuleHybrid), or the most that is not above (kRuleCdf); at least one. Sums run in ranking order. Takes the scores away.
SLA2_DEVICE uint32_t count_by_share(const Row& row, uint32_t ranked) {
  const uint32_t at = row.map.scores;
  sort_keys(row, row.map.places);
  const double high = score_of_key(shared_load<uint64_t>(at)), low = score_of_key(shared_load<uint64_t>(at + (ranked - 1) * 8));
  sync_threads();  // both have been read by all
  for (uint32_t n = thread_index(); n < ranked; n += kPrepareThreads) {
    const double x = score_of_key(shared_load<uint64_t>(at + n * 8));
    double share = 1;
    if (row.p.rule != kRuleStretch)
      share = kernels::same_exp<RoundedMath>(add_rounded(x, -high));
    else if (high > low)
      share = add_rounded(x, -low) / add_rounded(high, -low);
    shared_store<double>(at + n * 8, share);
  }
  sync_threads();
  if (thread_index() == 0) {
    double all = 0, sum = 0;
    for (uint32_t n = 0; n < ranked; ++n) all = add_rounded(all, shared_load<double>(at + n * 8));
    uint32_t n = row.p.rule == kRuleCdf && row.p.top_p >= 1 ? ranked : 0;  // whatever all of them round to
    if (row.p.rule == kRuleCdf) {
      while (n < ranked && (sum = add_rounded(sum, shared_load<double>(at + n * 8) / all)) <= row.p.top_p) ++n;
    } else {
      while (n < ranked && sum < row.p.top_p) sum = add_rounded(sum, shared_load<double>(at + n++ * 8) / all);
    }
    shared_store<uint32_t>(row.map.words, n == 0 ? 1 : n);
  }
  sync_threads();
  const auto count = shared_load<uint32_t>(row.map.words);
  sync_threads();
  return count;
}

}  // namespace sla2::cuda
