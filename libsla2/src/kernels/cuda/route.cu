// SPDX-License-Identifier: Apache-2.0
// The router: which key blocks each query block keeps, one block of threads per query block. Scores are in route_score.h, rules
// in route_choose.h; here they become lists.
#include "kernels/cuda/route_soft.h"

namespace sla2::cuda {
namespace {

/// Which blocks the caller keeps, as marks; numbers that are no block are passed over.
SLA2_DEVICE void mark_given(const Row& row) {
  const RouteParams& p = row.p;
  for (uint32_t j = thread_index(); j < static_cast<uint32_t>(p.key_blocks); j += kPrepareThreads)
    shared_store<uint16_t>(row.map.extra + j * 2, 0);
  sync_threads();
  const int32_t* const list = p.given + row.index * p.given_capacity;
  const int64_t count = p.given_count[row.index] < p.given_capacity ? p.given_count[row.index] : p.given_capacity;
  for (int64_t i = thread_index(); i < count; i += kPrepareThreads)
    if (list[i] >= 0 && list[i] < p.key_blocks) shared_store<uint16_t>(row.map.extra + static_cast<uint32_t>(list[i]) * 2, 1);
  sync_threads();
}

/// How many candidates the rule keeps. True in `again`: the scores were taken away.
SLA2_DEVICE uint32_t count_kept(const Row& row, bool& again) {
  const RouteParams& p = row.p;
  const auto keep = static_cast<uint32_t>(p.keep), blocks = static_cast<uint32_t>(p.key_blocks);
  if (p.rule == kRuleGiven) return 0;
  const bool all = p.rule == kRuleTop ? p.protect_first == 0 && p.protect_last == 0 && p.protect_near < 0 : p.likeness == nullptr;
  const uint32_t candidates = all ? blocks : count_candidates(row);
  if (p.rule == kRuleTop) return keep < blocks - candidates ? 0 : keep - (blocks - candidates);  // protected ones count
  const uint32_t least = keep < candidates ? keep : candidates;
  if (p.rule == kRuleAlike || candidates == 0) return least;
  const uint32_t by_share = count_by_share(row, candidates);
  again = true;
  return p.rule == kRuleHybrid && least > by_share ? least : by_share;
}

/// Lists of the row, ascending. @return how many blocks are kept
SLA2_DEVICE uint32_t write_lists(const Row& row, uint32_t keep) {
  const RouteParams& p = row.p;
  const auto blocks = static_cast<uint32_t>(p.key_blocks);
  Best kept = find_best(row, keep), stay{};
  const bool drops = p.drop > 0;
  if (drops) {  // the last of the ranking, protected blocks before all: what stays are so many candidates
    const uint32_t candidates = count_candidates(row), rest = candidates - keep, drop = static_cast<uint32_t>(p.drop);
    stay = find_best(row, candidates - (drop < rest ? drop : rest));
  }
  uint32_t written = 0, apart = 0;
  const uint32_t words = row.map.words, more = words + kRouteWarps * 4;
  for (uint32_t first = 0; first < blocks; first += kPrepareThreads) {
    const uint32_t j = first + thread_index();
    const bool inside = j < blocks;
    const uint64_t key = inside ? row.key(j) : kNoCandidate;
    const bool chosen = kept.has(key, words), always = inside && row.is_always(j);
    const bool is_kept = inside && (always || chosen);
    const Places places = count_before(is_kept, more);
    if (is_kept) p.list[row.index * p.capacity + written + places.before] = static_cast<int32_t>(j);
    written += places.all;
    if (p.kept_bits != nullptr) {
      const uint32_t bits = ballot(is_kept), word = j / 32;
      if (thread_index() % 32 == 0 && inside) p.kept_bits[row.index * ((blocks + 31) / 32) + word] = bits;
    }
    if (p.apart == nullptr) continue;
    const bool stays = !drops || stay.has(key, words);
    const bool is_apart = inside && (is_kept ? p.everywhere == 0 : !stays);
    const Places aside = count_before(is_apart, more);
    if (is_apart) p.apart[row.index * p.key_blocks + apart + aside.before] = static_cast<int32_t>(j);
    apart += aside.all;
  }
  if (thread_index() == 0) p.count[row.index] = static_cast<int32_t>(written);
  if (thread_index() == 0 && p.apart != nullptr) p.apart_count[row.index] = static_cast<int32_t>(apart);
  sync_threads();  // the lists are read by all of the block below
  return written;
}

/// log Σ b_j · exp(R_j) over the blocks that were not kept, from scores without learned weights; a soft mask: over all, by
/// 1 - M. Each thread walks the list beside its own blocks.
SLA2_DEVICE void write_rest(const Row& row, int32_t kept) {
  const RouteParams& p = row.p;
  const int32_t* const list = p.list + row.index * p.capacity;
  float top = -infinity(), sum = 0;
  for (int pass = 0; pass < 2; ++pass) {
    int32_t at = 0;
    for (auto j = static_cast<int32_t>(thread_index()); j < p.key_blocks; j += kPrepareThreads) {
      while (at < kept && list[at] < j) ++at;
      if (at < kept && list[at] == j) continue;
      const auto score = static_cast<float>(shared_load<double>(row.map.scores + static_cast<uint32_t>(j) * 8));
      if (pass == 0) {
        top = largest(top, score);
        continue;
      }
      const int64_t left = p.key_tokens - static_cast<int64_t>(j) * p.block_k;
      const float weight = p.soft == nullptr ? 1.0F : 1 - p.soft[row.index * p.key_blocks + j];
      sum += weight * static_cast<float>(left < p.block_k ? left : p.block_k) * exp2_fast((score - top) * kLog2E);
    }
    if (pass == 0) top = block_max(top, row.map.words);
  }
  sum = block_sum(sum, row.map.words + kRouteWarps * 4);
  if (thread_index() == 0) p.rest_log_sum[row.index] = top + log_of(sum);
}

/// vsa: softmax(R)·V̄. Takes the scores away.
SLA2_DEVICE void write_coarse(const Row& row, int64_t key_head) {
  const RouteParams& p = row.p;
  const auto blocks = static_cast<uint32_t>(p.key_blocks), width = static_cast<uint32_t>(p.width);
  float top = -infinity(), sum = 0;
  for (uint32_t j = thread_index(); j < blocks; j += kPrepareThreads)
    top = largest(top, static_cast<float>(shared_load<double>(row.map.scores + j * 8)));
  top = block_max(top, row.map.words);
  for (uint32_t j = thread_index(); j < blocks; j += kPrepareThreads) {
    const double below = shared_load<double>(row.map.scores + j * 8) - static_cast<double>(top);
    const float weight = exp2_fast(static_cast<float>(below) * kLog2E);
    shared_store<float>(row.map.scores + j * 8, weight);
    sum += weight;
  }
  sum = block_sum(sum, row.map.words + kRouteWarps * 4);
  const float* const means = p.value_means + key_head * blocks * width;
  for (uint32_t c = thread_index(); c < width; c += kPrepareThreads) {
    float mean = 0;
    for (uint32_t j = 0; j < blocks; ++j) mean += shared_load<float>(row.map.scores + j * 8) * means[j * width + c];
    p.coarse[row.index * width + c] = mean / sum;
  }
  sync_threads();
}

}  // namespace

SLA2_KERNEL(sla2_route, kPrepareThreads, 4, RouteParams) {
  const RouteMap& map = p.map;
  const int64_t head = block_y(), key_head = head / p.heads_per_key;
  const float* const means = p.means + key_head * p.dim * p.mean_row;
  const int64_t weights = p.router_heads == 1 ? 0 : head % p.heads * p.dim * p.dim;
  const bool learned = p.router_q != nullptr || p.router_k != nullptr;
  const RowBlock queries = row_block(p.q, head, block_x(), p.block_q, p.query_tokens, nullptr);
  Row row{p, map, head * p.query_blocks + block_x(), nullptr, false, 0, 0};
  row.first_near = queries.first / p.block_k - p.protect_near;
  row.last_near = (queries.first + queries.n - 1) / p.block_k + p.protect_near;
  if (p.likeness != nullptr) {
    row.likeness = p.likeness + key_head * p.key_blocks;
    row.keep_all = self_similarity(queries, p.dim, map.extra, map.other) < p.theta;
  }
  pool_rows(queries, p.dim, map.query);
  uint32_t query = map.query, other = map.other;
  if (p.router_q != nullptr) {
    project(p.dim, p.router_q + weights, false, query, other);
    query = map.other, other = map.query;
  }
  if (p.router_k != nullptr) project(p.dim, p.router_k + weights, true, query, other), query = other;
  score(p, means, query, map.scores);
  if (p.given != nullptr) mark_given(row);
  uint32_t kept = 0;
  if (p.soft != nullptr) {
    write_soft(row);
  } else {
    bool again = false;
    const uint32_t keep = count_kept(row, again);
    if (again) score(p, means, query, map.scores);
    kept = write_lists(row, keep);
  }
  if (p.coarse != nullptr) write_coarse(row, key_head);
  if (p.rest_log_sum == nullptr) return;
  if (learned || p.coarse != nullptr) {
    pool_rows(queries, p.dim, map.query);
    score(p, means, map.query, map.scores);
  }
  write_rest(row, static_cast<int32_t>(kept));
}

/// Shared memory: fp64 per row, then per channel.
SLA2_KERNEL(sla2_likeness, kPrepareThreads, 4, LikenessParams) {
  const int64_t head = block_y(), blocks = (p.key_tokens + p.block_k - 1) / p.block_k;
  const RowBlock keys = row_block(p.k, head, block_x(), p.block_k, p.key_tokens, p.shift + head * p.dim);
  const double likeness = self_similarity(keys, p.dim, 0, static_cast<uint32_t>(p.block_k) * 8);
  if (thread_index() == 0) p.likeness[head * blocks + block_x()] = likeness;
}

}  // namespace sla2::cuda
