// SPDX-License-Identifier: Apache-2.0
// What is said beside the output: lists where no router runs, and what a plan tells of its last call.
#include "kernels/cuda/rows.h"
#include "kernels/cuda/tiles.h"

namespace sla2::cuda {
namespace {

/// Sum of count numbers `step` apart, in an order that depends on their number alone; only the first thread gets it. Shared
/// memory: fp64 per thread.
template <typename T>
SLA2_DEVICE double sum_all(const T* x, int64_t count, int64_t step) {
  double sum = 0;
  for (int64_t i = thread_index(); i < count; i += kPrepareThreads) sum += static_cast<double>(x[i * step]);
  sync_threads();  // the sum before has been read
  shared_store<double>(thread_index() * 8, sum);
  sync_threads();
  if (thread_index() != 0) return 0;
  for (uint32_t i = 1; i < kPrepareThreads; ++i) sum += shared_load<double>(i * 8);
  return sum;
}

}  // namespace

SLA2_KERNEL(sla2_summary, kPrepareThreads, 1, SummaryParams) {
  const bool first = thread_index() == 0;
  if (p.count != nullptr) {
    const double kept = sum_all(p.count, p.rows, 1);
    if (first) p.out->kept_pairs = kept;
  }
  if (p.linear_shares != nullptr) {
    const double share = sum_all(p.linear_shares, p.rows * p.warps, 1);
    if (first) p.out->linear_share = share;
  }
  if (p.probe == nullptr) return;
  for (int i = 0; i < kProbeSums; ++i) {
    const double sum = sum_all(p.probe + i, p.probed * p.warps, kProbeSums);
    if (first) p.out->probe[i] = sum;
  }
}

SLA2_KERNEL(sla2_list_all, kPrepareThreads, 1, ListAllParams) {
  const int64_t head = block_y();
  for (int64_t i = thread_index(); i < static_cast<int64_t>(p.rows) * p.blocks; i += kPrepareThreads)
    p.list[(head * p.rows + i / p.blocks) * p.capacity + i % p.blocks] = static_cast<int32_t>(i % p.blocks);
  for (int64_t row = thread_index(); row < p.rows; row += kPrepareThreads) p.count[head * p.rows + row] = p.blocks;
}

}  // namespace sla2::cuda
