// SPDX-License-Identifier: Apache-2.0
// The router: pooled query, scores against every key block, Top-k, one block of threads per query block. fp64 in the CPU's order,
// so that the same weights keep the same blocks, bit for bit.
//
// Shared memory: scores [T_n] fp64 | pooled query, two of [D] fp64 | one word per warp, twice.
#include "kernels/cuda/rows.h"
#include "kernels/cuda/tiles.h"

namespace sla2::cuda {
namespace {

constexpr uint32_t kWarps = kPrepareThreads / 32;

struct RouteMap {
  uint32_t scores, query, other, words;
};
SLA2_DEVICE RouteMap route_map(const RouteParams& p) {
  const auto blocks = static_cast<uint32_t>(p.key_blocks), dim = static_cast<uint32_t>(p.dim);
  return {0, blocks * 8, (blocks + dim) * 8, (blocks + 2 * dim) * 8};
}

/// Larger numbers have larger keys; any NaN has the largest.
SLA2_DEVICE uint64_t order_key(double score) {
  if (score != score) return ~uint64_t{0};
  const uint64_t bits = double_bits(score == 0 ? 0.0 : score), sign = uint64_t{1} << 63;
  return (bits & sign) != 0 ? ~bits : bits | sign;
}

/// Sum over the block of threads; every thread gets it. `words`: kWarps words of shared memory.
template <typename T>
SLA2_DEVICE T block_sum(T x, uint32_t words) {
  for (uint32_t mask = 1; mask < 32; mask *= 2) x += shuffle_xor(x, mask);
  sync_threads();  // the words of the sum before have been read
  if (thread_index() % 32 == 0) shared_store<T>(words + thread_index() / 32 * 4, x);
  sync_threads();
  T sum = 0;
  for (uint32_t w = 0; w < kWarps; ++w) sum += shared_load<T>(words + w * 4);
  return sum;
}
SLA2_DEVICE float block_max(float x, uint32_t words) {
  x = warp_max(x);
  sync_threads();
  if (thread_index() % 32 == 0) shared_store<float>(words + thread_index() / 32 * 4, x);
  sync_threads();
  for (uint32_t w = 0; w < kWarps; ++w) x = largest(x, shared_load<float>(words + w * 4));
  return x;
}

/// Mean query of the block: fp64 sum in row order, rounded to fp32.
SLA2_DEVICE void pool_query(const RouteParams& p, uint32_t query) {
  const int64_t head = block_y(), first = static_cast<int64_t>(block_x()) * p.block_q, left = p.query_tokens - first;
  const int32_t n = left < p.block_q ? static_cast<int32_t>(left) : p.block_q;
  for (uint32_t c = thread_index(); c < static_cast<uint32_t>(p.dim); c += kPrepareThreads) {
    double sum = 0;
    for (int32_t r = 0; r < n; ++r)
      sum = add_rounded(sum, static_cast<double>(load_element(p.q, row_at(p.q, head, first + r) + c)));
    shared_store<double>(query + c * 8, static_cast<double>(static_cast<float>(sum / static_cast<double>(n))));
  }
  sync_threads();
}

/// to [D] = from [D] · W, or · Wᵀ.
SLA2_DEVICE void project(const RouteParams& p, const float* weights, bool transposed, uint32_t from, uint32_t to) {
  const auto dim = static_cast<uint32_t>(p.dim);
  for (uint32_t c = thread_index(); c < dim; c += kPrepareThreads) {
    double sum = 0;
    for (uint32_t e = 0; e < dim; ++e) {
      const float weight = transposed ? weights[c * dim + e] : weights[e * dim + c];
      sum = add_rounded(sum, multiply_rounded(shared_load<double>(from + e * 8), static_cast<double>(weight)));
    }
    shared_store<double>(to + c * 8, sum);
  }
  sync_threads();
}

/// scores[j] = scale · Σ_c q[c] · means[c, j], c in order, q rounded to fp32: each product is exact in fp64.
SLA2_DEVICE void score(const RouteParams& p, const float* means, uint32_t query, uint32_t scores) {
  for (uint32_t j = thread_index(); j < static_cast<uint32_t>(p.key_blocks); j += kPrepareThreads) {
    double sum = 0;
    for (int32_t c = 0; c < p.dim; ++c)
      sum += static_cast<double>(static_cast<float>(shared_load<double>(query + static_cast<uint32_t>(c) * 8))) *
             static_cast<double>(means[static_cast<int64_t>(c) * p.mean_row + j]);
    shared_store<double>(scores + j * 8, multiply_rounded(p.scale, sum));
  }
  sync_threads();
}

/// The key of the keep-th largest score: bit by bit from the top, how many keys are at least that large?
SLA2_DEVICE uint64_t find_threshold(const RouteParams& p, uint32_t scores, uint32_t words) {
  uint64_t found = 0;
  for (int bit = 63; bit >= 0; --bit) {
    const uint64_t candidate = found | uint64_t{1} << bit;
    uint32_t mine = 0;
    for (uint32_t j = thread_index(); j < static_cast<uint32_t>(p.key_blocks); j += kPrepareThreads)
      mine += order_key(shared_load<double>(scores + j * 8)) >= candidate ? 1 : 0;
    if (block_sum(mine, words + bit % 2 * kWarps * 4) >= static_cast<uint32_t>(p.keep)) found = candidate;
  }
  return found;
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
  for (uint32_t w = 0; w < kWarps; ++w) {
    const uint32_t count = shared_load<uint32_t>(words + w * 4);
    if (w < warp) places.before += count;
    places.all += count;
  }
  return places;
}

/// Kept blocks ascending; equals by the lowest index. Leaves scores of kept blocks at NaN where `mark`.
SLA2_DEVICE void write_list(const RouteParams& p, const RouteMap& map, uint64_t threshold) {
  const int64_t row = static_cast<int64_t>(block_y()) * p.query_blocks + block_x();
  const auto blocks = static_cast<uint32_t>(p.key_blocks), keep = static_cast<uint32_t>(p.keep);
  uint32_t above = 0;
  for (uint32_t j = thread_index(); j < blocks; j += kPrepareThreads)
    above += order_key(shared_load<double>(map.scores + j * 8)) > threshold ? 1 : 0;
  const uint32_t equals = keep - block_sum(above, map.words);
  uint32_t written = 0, equals_seen = 0;
  for (uint32_t first = 0; first < blocks; first += kPrepareThreads) {
    const uint32_t j = first + thread_index();
    const uint64_t key = j < blocks ? order_key(shared_load<double>(map.scores + j * 8)) : 0;
    const bool equal = j < blocks && key == threshold;
    const Places ties = count_before(equal, map.words);
    const bool kept = j < blocks && (key > threshold || (equal && equals_seen + ties.before < equals));
    const Places places = count_before(kept, map.words + kWarps * 4);
    if (kept) p.list[row * p.capacity + written + places.before] = static_cast<int32_t>(j);
    written += places.all;
    equals_seen += ties.all;
  }
  if (thread_index() == 0) p.count[row] = p.keep;
}

/// log Σ b_j · exp(R_j) over the blocks that were not kept, from scores without learned weights. Each thread walks the list
/// beside its own blocks.
SLA2_DEVICE void write_rest(const RouteParams& p, const RouteMap& map) {
  const int64_t row = static_cast<int64_t>(block_y()) * p.query_blocks + block_x();
  const int32_t* const list = p.list + row * p.capacity;
  const int32_t kept = p.count[row];
  float top = -infinity(), sum = 0;
  for (int pass = 0; pass < 2; ++pass) {
    int32_t at = 0;
    for (auto j = static_cast<int32_t>(thread_index()); j < p.key_blocks; j += kPrepareThreads) {
      while (at < kept && list[at] < j) ++at;
      if (at < kept && list[at] == j) continue;
      const auto score = static_cast<float>(shared_load<double>(map.scores + static_cast<uint32_t>(j) * 8));
      if (pass == 0) {
        top = largest(top, score);
        continue;
      }
      const int64_t left = p.key_tokens - static_cast<int64_t>(j) * p.block_k;
      sum += static_cast<float>(left < p.block_k ? left : p.block_k) * exp2_fast((score - top) * kLog2E);
    }
    if (pass == 0) top = block_max(top, map.words);
  }
  sum = block_sum(sum, map.words + kWarps * 4);
  if (thread_index() == 0) p.rest_log_sum[row] = top + log_of(sum);
}

}  // namespace

SLA2_KERNEL(sla2_route, kPrepareThreads, 4, RouteParams) {
  const RouteMap map = route_map(p);
  const int64_t head = block_y(), key_head = head / p.heads_per_key;
  const float* const means = p.means + key_head * p.dim * p.mean_row;
  const int64_t weights = p.router_heads == 1 ? 0 : head % p.heads * p.dim * p.dim;
  const bool learned = p.router_q != nullptr || p.router_k != nullptr;
  pool_query(p, map.query);
  uint32_t query = map.query, other = map.other;
  if (p.router_q != nullptr) {
    project(p, p.router_q + weights, false, query, other);
    query = map.other, other = map.query;
  }
  if (p.router_k != nullptr) project(p, p.router_k + weights, true, query, other), query = other;
  score(p, means, query, map.scores);
  write_list(p, map, find_threshold(p, map.scores, map.words));
  if (p.rest_log_sum == nullptr) return;
  sync_threads();  // the list is read by all of the block below
  if (learned) {
    pool_query(p, map.query);
    score(p, means, map.query, map.scores);
  }
  write_rest(p, map);
}

/// L_rest alone, of a list that is there already. Grid as sla2_route.
SLA2_KERNEL(sla2_rest, kPrepareThreads, 4, RouteParams) {
  const RouteMap map = route_map(p);
  pool_query(p, map.query);
  score(p, p.means + block_y() / p.heads_per_key * static_cast<int64_t>(p.dim) * p.mean_row, map.query, map.scores);
  write_rest(p, map);
}

}  // namespace sla2::cuda
