// SPDX-License-Identifier: Apache-2.0
// The softmax branch: a block of queries against a list of key blocks, in fp32, with bf16 products, or with 8 bits.
#include <algorithm>
#include <limits>

#include "attention/forward.h"

namespace sla2::attention {
namespace {

using kernels::kPanel;

constexpr double kLog2E = 1.4426950408889634;

void softmax_branch_f32(const Call& call, const HeadBuffers& head, int64_t n, const Keys& keys, const WorkerBuffers& w) {
  const Geometry& g = call.geometry;
  for (int64_t r = 0; r < n; ++r) {
    w.m[r] = -std::numeric_limits<float>::infinity();
    w.l[r] = 0;
  }
  for (int64_t i = 0; i < keys.blocks.count; ++i) {
    const int64_t j = keys.blocks.index == nullptr ? i : keys.blocks.index[i];
    const int64_t columns = std::min(g.block_k, keys.tokens - j * g.block_k), key_panels = kernels::panels_of(columns);
    const float* const key_block = head.keys + j * g.block_k * g.dim;
    const float* const value_block = head.values + j * g.panels * g.block_k * kPanel;
    for (int64_t p = 0; p < key_panels; ++p)
      call.ops.panel_gemm(n, g.dim, w.q, g.dim, 1, key_block + p * g.dim * kPanel, w.tile + p * kPanel, g.block_k, false);
    const float* bias = nullptr;
    if (keys.bias != nullptr) {
      bias = keys.bias + j * g.block_k;
    } else if (columns < g.block_k) {
      bias = call.workspace.tail_bias;
    }
    const bool rescale = call.ops.online_softmax(n, key_panels * kPanel, w.tile, g.block_k, bias, w.m, w.l, w.rescale);
    if (rescale && i > 0) call.ops.rescale_rows(n, g.panels, w.rescale, w.acc);
    for (int64_t p = 0; p < g.panels; ++p)
      call.ops.panel_gemm(n, columns, w.tile, g.block_k, 1, value_block + p * g.block_k * kPanel, w.acc + p * n * kPanel, kPanel,
                          i > 0);
  }
}

/// From fp32 queries that are not scaled yet.
void softmax_branch_bf16(const Call& call, const HeadBuffers& head, int64_t n, const Keys& keys, const WorkerBuffers& w) {
  const Geometry& g = call.geometry;
  call.ops.narrow_rows_bf16(w.q, n * g.dim, w.q_bf16);
  call.ops.attend_bf16({n, g.dim, g.block_k, keys.tokens, w.q_bf16, head.keys_bf16, head.values_bf16, keys.blocks.index,
                        keys.blocks.count, keys.bias, call.workspace.tail_bias, static_cast<float>(g.scale * kLog2E), w.m, w.l,
                        w.acc, w.weights_bf16, w.sums});
}

/// The same with Q·Kᵀ in 8 bits.
void softmax_branch_int8(const Call& call, const HeadBuffers& head, int64_t n, const Keys& keys, const WorkerBuffers& w) {
  const Geometry& g = call.geometry;
  call.ops.quantise_rows_int8(w.q, n, g.dim, w.q_int8, w.q_scale, w.q_offset);
  w.clock->lap(Part::kPack);
  const kernels::AttendInt8 args{n,
                                 g.dim,
                                 g.block_k,
                                 keys.tokens,
                                 w.q_int8,
                                 w.q_scale,
                                 w.q_offset,
                                 head.keys_int8,
                                 head.key_scale,
                                 head.values_bf16,
                                 keys.blocks.index,
                                 keys.blocks.count,
                                 keys.bias,
                                 call.workspace.tail_bias,
                                 static_cast<float>(g.scale * kLog2E),
                                 w.m,
                                 w.l,
                                 w.acc,
                                 w.weights_bf16,
                                 w.sums};
  if (g.fp8) {
    call.ops.attend_fp8({args, head.values_fp8, head.value_scale, kernels::Fp8Sums::kTwoLevel});
  } else {
    call.ops.attend_int8(args);
  }
}

}  // namespace

void softmax_branch(const Call& call, const HeadBuffers& head, int64_t n, const Keys& keys, const WorkerBuffers& w) {
  const Geometry& g = call.geometry;
  (g.int8 ? softmax_branch_int8 : g.bf16 ? softmax_branch_bf16 : softmax_branch_f32)(call, head, n, keys, w);
}

}  // namespace sla2::attention
