// SPDX-License-Identifier: Apache-2.0
// The lists of kept blocks, transposed: counted, summed up, filled. A thread takes a key block and looks for it in every row, so
// that its query blocks come out in ascending order whatever the schedule.
#include "kernels/cuda/arch.h"
#include "kernels/cuda/backward_params.h"
#include "kernels/cuda/tiles.h"

namespace sla2::cuda {
namespace {

/// Is key block j in the ascending row?
SLA2_DEVICE bool holds(const int32_t* row, int32_t count, int32_t j) {
  int32_t low = 0;
  while (count > 0) {
    const int32_t half = count / 2;
    if (row[low + half] < j)
      low += half + 1, count -= half + 1;
    else
      count = half;
  }
  return row[low] == j;
}

/// found(i) for every query block that keeps key block j, ascending.
template <typename Found>
SLA2_DEVICE void for_rows(const TransposeParams& p, int64_t head, int32_t j, const Found& found) {
  for (int32_t i = 0; i < p.query_blocks; ++i) {
    const int64_t row = head * p.query_blocks + i;
    const int32_t* const list = p.list + row * p.capacity;
    const int32_t count = p.count[row] < p.most ? p.count[row] : p.most;  // more than a row can hold would run over the index
    if (count > 0 && j <= list[count - 1] && holds(list, count, j)) found(i);
  }
}

}  // namespace

SLA2_KERNEL(sla2_transpose_count, kPrepareThreads, 4, TransposeParams) {
  const int64_t head = block_y();
  const auto j = static_cast<int32_t>(block_x() * kPrepareThreads + thread_index());
  if (j >= p.key_blocks) return;
  int32_t count = 0;
  for_rows(p, head, j, [&](int32_t) { ++count; });
  p.begin[head * (p.key_blocks + 1) + j] = count;
}

SLA2_KERNEL(sla2_transpose_scan, kPrepareThreads, 4, TransposeParams) {
  int32_t* const begin = p.begin + static_cast<int64_t>(block_y()) * (p.key_blocks + 1);
  const int32_t each = (p.key_blocks + kPrepareThreads - 1) / kPrepareThreads;
  const auto thread = static_cast<int32_t>(thread_index());
  const int32_t first = thread * each, end = first + each < p.key_blocks ? first + each : p.key_blocks;
  int32_t sum = 0;
  for (int32_t j = first; j < end; ++j) sum += begin[j];
  shared_store<int32_t>(thread_index() * 4, sum);
  sync_threads();
  int32_t before = 0;
  for (uint32_t i = 0; i < thread_index(); ++i) before += shared_load<int32_t>(i * 4);
  for (int32_t j = first; j < end; ++j) {
    const int32_t count = begin[j];
    begin[j] = before;
    before += count;
  }
  if (thread == kPrepareThreads - 1) begin[p.key_blocks] = before;
}

SLA2_KERNEL(sla2_transpose_fill, kPrepareThreads, 4, TransposeParams) {
  const int64_t head = block_y();
  const auto j = static_cast<int32_t>(block_x() * kPrepareThreads + thread_index());
  if (j >= p.key_blocks) return;
  int32_t* to = p.index + head * p.query_blocks * p.most + p.begin[head * (p.key_blocks + 1) + j];
  for_rows(p, head, j, [&](int32_t i) { *to++ = i; });
}

}  // namespace sla2::cuda
