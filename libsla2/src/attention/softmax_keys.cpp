// SPDX-License-Identifier: Apache-2.0
// Which columns the softmax branch sees and with what bias: kept blocks, mean keys of the others, soft weights.
#include <algorithm>
#include <cmath>
#include <limits>

#include "attention/forward.h"

namespace sla2::attention {
namespace {

constexpr float kNone = -std::numeric_limits<float>::infinity();

/// A soft weight is a bias of its log2 on each key of the block; keys past the end get none.
void write_block_bias(const Geometry& g, int64_t j, float value, float* bias) {
  const int64_t n = g.key_rows(j);
  std::fill_n(bias + j * g.block_k, n, value);
  std::fill_n(bias + j * g.block_k + n, g.block_k - n, kNone);
}

}  // namespace

Keys softmax_keys(const Call& call, const Selection& selection, const WorkerBuffers& w) {
  const Geometry& g = call.geometry;
  const Blocks& kept = selection.kept;
  if (g.mode == Mode::kFull) return {kept, g.config.key_tokens, call.in.key_bias == nullptr ? nullptr : call.workspace.bias};
  if (!g.soft && !g.pooled) return {kept, g.config.key_tokens, nullptr};

  for (int64_t i = 0; i < kept.count; ++i) {
    const int64_t j = kept.index == nullptr ? i : kept.index[i];
    write_block_bias(g, j, g.soft ? static_cast<float>(std::log2(w.mask[j])) : 0.0F, w.bias);
  }
  if (!g.pooled) return {kept, g.config.key_tokens, w.bias};

  float* const means = w.bias + g.key_blocks * g.block_k;
  std::fill_n(means, g.mean_blocks * g.block_k, kNone);
  for (int64_t j = 0; j < g.key_blocks; ++j) {
    const double rest = g.soft ? 1 - w.mask[j] : 1.0;
    means[j] = static_cast<float>(std::log2(rest * static_cast<double>(g.key_rows(j))));
  }
  const int64_t tokens = g.key_blocks * g.block_k + g.key_blocks;
  if (g.soft) return {{nullptr, g.key_blocks + g.mean_blocks}, tokens, w.bias};
  for (int64_t i = 0; i < kept.count; ++i) {
    means[kept.index[i]] = kNone;
    w.key_list[i] = kept.index[i];
  }
  for (int64_t b = 0; b < g.mean_blocks; ++b) w.key_list[kept.count + b] = static_cast<int32_t>(g.key_blocks + b);
  return {{w.key_list, kept.count + g.mean_blocks}, tokens, w.bias};
}

}  // namespace sla2::attention
