// SPDX-License-Identifier: Apache-2.0
// The router's numbers: pooled query, learned matrices, scores against every key block, likeness of rows. fp64 in the CPU's
// order, so that the same weights keep the same blocks, bit for bit.
#pragma once
#include "kernels/cuda/rows.h"
#include "kernels/cuda/tiles.h"

namespace sla2::cuda {

inline constexpr uint32_t kRouteWarps = kPrepareThreads / 32;

/// Sum over the block of threads; every thread gets it. `words`: kRouteWarps numbers of shared memory.
template <typename T>
SLA2_DEVICE T block_sum(T x, uint32_t words) {
  constexpr uint32_t kSize = sizeof(T);
  for (uint32_t mask = 1; mask < 32; mask *= 2) x += shuffle_xor(x, mask);
  sync_threads();  // the words of the sum before have been read
  if (thread_index() % 32 == 0) shared_store<T>(words + thread_index() / 32 * kSize, x);
  sync_threads();
  T sum = 0;
  for (uint32_t w = 0; w < kRouteWarps; ++w) sum += shared_load<T>(words + w * kSize);
  return sum;
}
SLA2_DEVICE float block_max(float x, uint32_t words) {
  x = warp_max(x);
  sync_threads();
  if (thread_index() % 32 == 0) shared_store<float>(words + thread_index() / 32 * 4, x);
  sync_threads();
  for (uint32_t w = 0; w < kRouteWarps; ++w) x = largest(x, shared_load<float>(words + w * 4));
  return x;
}

/// Rows [first, first + n) of a head; minus `shift` [D] where it is given.
struct RowBlock {
  const Rows& rows;
  int64_t head, first;
  int32_t n;
  const float* shift;
  [[nodiscard]] SLA2_DEVICE float at(int32_t row, uint32_t c) const {
    const float x = load_element(rows, row_at(rows, head, first + row) + c);
    return shift == nullptr ? x : add_rounded(x, -shift[c]);
  }
};
SLA2_DEVICE RowBlock row_block(const Rows& rows, int64_t head, int64_t block, int32_t block_rows, int64_t tokens,
                               const float* shift) {
  const int64_t first = block * block_rows, left = tokens - first;
  return {rows, head, first, left < block_rows ? static_cast<int32_t>(left) : block_rows, shift};
}

/// Mean row of the block: fp64 sum in row order, rounded to fp32.
SLA2_DEVICE void pool_rows(const RowBlock& block, int32_t dim, uint32_t mean) {
  for (uint32_t c = thread_index(); c < static_cast<uint32_t>(dim); c += kPrepareThreads) {
    double sum = 0;
    for (int32_t r = 0; r < block.n; ++r) sum = add_rounded(sum, static_cast<double>(block.at(r, c)));
    shared_store<double>(mean + c * 8, static_cast<double>(static_cast<float>(sum / static_cast<double>(block.n))));
  }
  sync_threads();
}

inline constexpr double kNoDirection = -1;  ///< in the place of a length: a row of zeros

/// Mean cosine over all pairs of rows: ‖mean of unit rows‖². `inverse`: fp64 per row, `sums`: per channel, both free afterwards.
SLA2_DEVICE double self_similarity(const RowBlock& block, int32_t dim, uint32_t inverse, uint32_t sums) {
  const auto channels = static_cast<uint32_t>(dim), rows = static_cast<uint32_t>(block.n);
  for (uint32_t r = thread_index(); r < rows; r += kPrepareThreads) {
    double square = 0;
    for (uint32_t c = 0; c < channels; ++c) {
      const auto x = static_cast<double>(block.at(static_cast<int32_t>(r), c));
      square = add_rounded(square, multiply_rounded(x, x));
    }
    shared_store<double>(inverse + r * 8, square == 0 ? kNoDirection : 1 / root_of(square));
  }
  sync_threads();
  for (uint32_t c = thread_index(); c < channels; c += kPrepareThreads) {
    double sum = 0;
    for (uint32_t r = 0; r < rows; ++r) {
      const double factor = shared_load<double>(inverse + r * 8);
      if (factor != kNoDirection)
        sum = add_rounded(sum, multiply_rounded(factor, static_cast<double>(block.at(static_cast<int32_t>(r), c))));
    }
    shared_store<double>(sums + c * 8, sum);
  }
  sync_threads();
  double length = 0;
  for (uint32_t c = 0; c < channels; ++c) {
    const double sum = shared_load<double>(sums + c * 8);
    length = add_rounded(length, multiply_rounded(sum, sum));
  }
  sync_threads();
  return length / static_cast<double>(static_cast<int64_t>(block.n) * block.n);
}

/// to [D] = from [D] · W, or · Wᵀ.
SLA2_DEVICE void project(int32_t channels, const float* weights, bool transposed, uint32_t from, uint32_t to) {
  const auto dim = static_cast<uint32_t>(channels);
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

}  // namespace sla2::cuda
