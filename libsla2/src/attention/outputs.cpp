// SPDX-License-Identifier: Apache-2.0
// What a call may want beside out: lists of blocks, log-sum-exps, and a probe of what sparsity cost.
#include <algorithm>
#include <cmath>

#include "attention/forward.h"
#include "core/dtype.h"

namespace sla2::attention {
namespace {

constexpr double kLn2 = 0.6931471805599453;
constexpr int64_t kSums = Workspace::kProbeSums;

}  // namespace

void write_list(const Call& call, const Place& place, const Blocks& kept) {
  const BlockList& list = *call.in.list;
  const int64_t row = place.head * call.geometry.query_blocks + place.block;
  list.count[row] = static_cast<int32_t>(kept.count);
  for (int64_t i = 0; i < kept.count; ++i)
    list.index[row * list.capacity + i] = kept.index == nullptr ? static_cast<int32_t>(i) : kept.index[i];
}

void write_whole_list(const Geometry& g, const BlockList& list) {
  const int64_t count = g.mode == Mode::kFull ? g.list_key_blocks : 0;
  for (int64_t row = 0; row < g.heads * g.list_query_blocks; ++row) {
    list.count[row] = static_cast<int32_t>(count);
    for (int64_t j = 0; j < count; ++j) list.index[row * list.capacity + j] = static_cast<int32_t>(j);
  }
}

void start_lse(const Call& call, const HeadBuffers& head, const Place& place, const float* q_rows) {
  const Geometry& g = call.geometry;
  float* const lse = call.in.lse + place.head * g.config.query_tokens + place.first;
  for (int64_t r = 0; r < place.rows; ++r) {
    double shift = 0;
    if (g.centred())
      for (int64_t c = 0; c < g.dim; ++c)
        shift += static_cast<double>(q_rows[r * g.dim + c]) * static_cast<double>(head.shift[c]);
    lse[r] = static_cast<float>(shift * g.scale);
  }
}

void finish_lse(const Call& call, const Place& place, const WorkerBuffers& w) {
  const Geometry& g = call.geometry;
  float* const lse = call.in.lse + place.head * g.config.query_tokens + place.first;
  for (int64_t r = 0; r < place.rows; ++r) {
    if (g.mode == Mode::kLinearOnly) {
      lse[r] = -INFINITY;  // its softmax saw nothing
      continue;
    }
    const double sum = (static_cast<double>(w.m[r]) + std::log2(static_cast<double>(w.l[r]))) * kLn2;
    lse[r] = static_cast<float>(static_cast<double>(lse[r]) + sum);
  }
}

bool is_probed(const Geometry& g, double fraction, int64_t block) {
  const int64_t count = std::max<int64_t>(1, std::llround(fraction * static_cast<double>(g.query_blocks)));
  const auto middle = [&](int64_t n) { return (2 * n + 1) * g.query_blocks / (2 * count); };  // of the n-th of `count` stretches
  const int64_t n = block * count / g.query_blocks;
  return middle(n) == block || (n + 1 < count && middle(n + 1) == block);
}

void probe_block(const Call& call, const HeadBuffers& head, const Place& place, const WorkerBuffers& w) {
  const Geometry& g = call.geometry;
  const int64_t n = place.rows;
  Keys keys{{nullptr, g.key_blocks}, g.config.key_tokens, nullptr};
  if (call.in.key_bias != nullptr) keys.bias = call.workspace.bias;
  softmax_branch(call, head, n, keys, w);
  const Operand out{call.in.out.data, call.in.out.dtype, call.in.out.stride_batch, call.in.out.stride_head,
                    call.in.out.stride_token};
  call.ops.load_rows(rows_of(out, place.head, g.config.heads), place.first, n, g.dim, 1.0F, w.q);
  const BranchLayout layout = branch_layout(g, n);
  double* const sums = call.workspace.probe_sums + (place.head * g.query_blocks + place.block) * kSums;
  std::fill_n(sums, kSums, 0.0);
  for (int64_t r = 0; r < n; ++r) {
    const double scale = w.l[r] == 0 ? 0.0 : 1.0 / static_cast<double>(w.l[r]);
    for (int64_t c = 0; c < g.dim; ++c) {
      const int64_t at = c / kernels::kPanel * layout.panel + r * layout.row + c % kernels::kPanel;
      const double full = scale == 0 ? 0.0 : scale * static_cast<double>(w.acc[at]);
      const auto ours = static_cast<double>(w.q[r * g.dim + c]);
      sums[0] += std::abs(ours - full);
      sums[1] += std::abs(full);
      sums[2] += ours * full;
      sums[3] += ours * ours;
      sums[4] += full * full;
    }
  }
}

void finish_probe(const Geometry& g, const Workspace& space, Probe& probe) {
  double sums[kSums] = {};
  probe.blocks = 0;
  for (int64_t row = 0; row < g.heads * g.query_blocks; ++row) {
    if (!is_probed(g, probe.fraction, row % g.query_blocks)) continue;
    ++probe.blocks;
    for (int64_t i = 0; i < kSums; ++i) sums[i] += space.probe_sums[row * kSums + i];
  }
  probe.relative_l1 = sums[0] == 0 ? 0 : sums[0] / sums[1];
  probe.cosine = sums[0] == 0 ? 1 : sums[2] / std::sqrt(sums[3] * sums[4]);
}

}  // namespace sla2::attention
