// SPDX-License-Identifier: Apache-2.0
// Pass 1 over keys (and fp8 values): what the router and the packing must know beforehand. One thread per channel; fp64 sums in
// row order, so that means and the mean key have the CPU's bits.
#include "kernels/cuda/rows.h"
#include "kernels/cuda/tiles.h"

namespace sla2::cuda {

SLA2_KERNEL(sla2_pool, kPrepareThreads, 1, PoolParams) {
  const int64_t block = block_x(), head = block_y(), first = block * p.block_k;
  const int64_t left = p.key_tokens - first;
  const int32_t n = left < p.block_k ? static_cast<int32_t>(left) : p.block_k;
  for (int32_t c = static_cast<int32_t>(thread_index()); c < p.dim; c += static_cast<int32_t>(thread_count())) {
    double sum = 0;
    for (int32_t r = 0; r < n; ++r)
      sum = add_rounded(sum, static_cast<double>(load_element(p.k, row_at(p.k, head, first + r) + c)));
    p.means[(head * p.dim + c) * p.mean_row + block] = static_cast<float>(sum / static_cast<double>(n));
  }
  const int64_t blocks = (p.key_tokens + p.block_k - 1) / p.block_k;
  if (p.value_means != nullptr)
    for (int32_t c = static_cast<int32_t>(thread_index()); c < p.width; c += static_cast<int32_t>(thread_count())) {
      double sum = 0;
      for (int32_t r = 0; r < n && c < p.dim; ++r)
        sum = add_rounded(sum, static_cast<double>(load_element(p.v, row_at(p.v, head, first + r) + c)));
      p.value_means[(head * blocks + block) * p.width + c] = static_cast<float>(sum / static_cast<double>(n));
    }
  if (p.value_peaks == nullptr) return;
  for (int32_t c = static_cast<int32_t>(thread_index()); c < p.width; c += static_cast<int32_t>(thread_count())) {
    float top = 0;
    for (int32_t r = 0; r < n && c < p.dim; ++r) {
      const float x = load_element(p.v, row_at(p.v, head, first + r) + c);
      if (is_finite(x)) top = largest(top, x < 0 ? -x : x);
    }
    p.value_peaks[(head * blocks + block) * p.width + c] = top;
  }
}

SLA2_KERNEL(sla2_centre, kPrepareThreads, 1, CentreParams) {
  const int64_t head = block_y();
  for (int32_t c = static_cast<int32_t>(thread_index()); c < p.dim; c += static_cast<int32_t>(thread_count())) {
    float* const line = p.means + (head * p.dim + c) * p.mean_row;
    double sum = 0;
    for (int32_t j = 0; j < p.key_blocks; ++j) {
      const int64_t left = p.key_tokens - static_cast<int64_t>(j) * p.block_k;
      const int64_t n = left < p.block_k ? left : p.block_k;
      sum = add_rounded(sum, static_cast<double>(n) * static_cast<double>(line[j]));  // the product is exact
    }
    const auto shift = static_cast<float>(sum / static_cast<double>(p.key_tokens));
    p.shift[head * p.dim + c] = shift;
    for (int32_t j = 0; j < p.mean_row; ++j) {
      line[j] = j < p.key_blocks ? add_rounded(line[j], -shift) : 0.0F;
      if (p.mean_keys != nullptr && j < p.key_blocks) p.mean_keys[(head * p.key_blocks + j) * p.width + c] = line[j];
    }
  }
  if (p.value_peaks == nullptr) return;
  for (int32_t c = static_cast<int32_t>(thread_index()); c < p.width; c += static_cast<int32_t>(thread_count())) {
    float top = 0;
    for (int32_t j = 0; j < p.key_blocks; ++j) top = largest(top, p.value_peaks[(head * p.key_blocks + j) * p.width + c]);
    p.value_scale[head * p.width + c] = top < kLeast ? 0.0F : top / p.value_top;
  }
}

}  // namespace sla2::cuda
