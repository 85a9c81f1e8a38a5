// SPDX-License-Identifier: Apache-2.0
// SoftTop-k: M = σ(R/τ + λ) with λ such that the row sums to k, by Newton's steps inside a bracket (attention/soft_top_k.cpp).
#pragma once
#include "kernels/cuda/route_choose.h"

namespace sla2::cuda {

/// Over the block of threads; numbers alone.
SLA2_DEVICE double block_largest(double x, uint32_t words) {
  for (uint32_t mask = 1; mask < 32; mask *= 2) {
    const double other = shuffle_xor(x, mask);
    if (other > x) x = other;
  }
  sync_threads();
  if (thread_index() % 32 == 0) shared_store<double>(words + thread_index() / 32 * 8, x);
  sync_threads();
  for (uint32_t w = 0; w < kRouteWarps; ++w) {
    const auto other = shared_load<double>(words + w * 8);
    if (other > x) x = other;
  }
  return x;
}

SLA2_DEVICE double sigmoid(double x) {
  const double away = kernels::same_exp<RoundedMath>(x < 0 ? x : -x);
  return x < 0 ? away / (1 + away) : 1 / (1 + away);
}

/// M of the row, from the scores.
SLA2_DEVICE void write_soft(const Row& row) {
  constexpr int kSteps = 200;  // bisection alone needs 60; Newton about six
  constexpr double kEnough = 1e-14, kLastBit = 0x1p-52;
  const RouteParams& p = row.p;
  const auto blocks = static_cast<uint32_t>(p.key_blocks);
  float* const mask = p.soft + row.index * blocks;
  double most = -infinity(), least = -infinity();  // of scores; of their negatives
  for (uint32_t j = thread_index(); j < blocks; j += kPrepareThreads) {
    const auto x = shared_load<double>(row.map.scores + j * 8);
    if (x > most) most = x;
    if (-x > least) least = -x;
  }
  most = block_largest(most, row.map.words), least = -block_largest(least, row.map.words);
  const double target = p.keep;
  double low = p.soft_middle - most / p.tau, high = p.soft_middle - least / p.tau, shift = (low + high) / 2;
  for (int step = 0; step < kSteps; ++step) {
    double sum = 0, slope = 0;
    for (uint32_t j = thread_index(); j < blocks; j += kPrepareThreads) {
      const double m = p.keep == p.key_blocks ? 1 : sigmoid(shared_load<double>(row.map.scores + j * 8) / p.tau + shift);
      mask[j] = static_cast<float>(m);
      sum += m, slope += m * (1 - m);
    }
    sum = block_sum(sum, row.map.words), slope = block_sum(slope, row.map.words);
    const double off = sum < target ? target - sum : sum - target, wide = shift < 0 ? -shift : shift;
    if (!(off > kEnough * target) || !(high - low > kLastBit * wide)) break;
    (sum < target ? low : high) = shift;
    const double newton = shift + (target - sum) / slope;
    shift = newton > low && newton < high ? newton : (low + high) / 2;
  }
  sync_threads();  // the mask is read by all of the block below
}

}  // namespace sla2::cuda
