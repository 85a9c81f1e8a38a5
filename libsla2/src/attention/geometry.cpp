// SPDX-License-Identifier: Apache-2.0
#include "attention/geometry.h"

#include <cmath>
#include <initializer_list>

#include "kernels/panel_gemm.h"
#include "kernels/route_scores.h"

namespace sla2::attention {
namespace {

constexpr int64_t kMinDim = 32, kMaxDim = 256, kDimStep = 8;
// The full path has no geometry of its own to keep, so it takes the tile that fits L2: q 64 KB, logits 32 KB, output
// 64 KB, one block of keys and values 64 KB at D 128.
constexpr int64_t kFullBlockQ = 128, kFullBlockK = 64;
// Heads are prepared together until there are this many query blocks to share among threads; more would only cost memory.
constexpr int64_t kTasksPerGroup = 128;
constexpr int64_t kMaxElements = int64_t{1} << 56;  // keeps every byte offset inside int64

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

void check_block(const char* name, int64_t value, std::initializer_list<int64_t> allowed, const char* text) {
  for (const int64_t one : allowed)
    if (value == one) return;
  fail(SLA2_E_ARGUMENT, "attention: {} is {}; expected one of {}", name, value, text);
}

void check_sizes(const Config& c) {
  const auto positive = [](const char* name, int64_t value) {
    SLA2_CHECK(value >= 1, SLA2_E_ARGUMENT, "attention: {} is {}; expected at least 1", name, value);
  };
  positive("batch", c.batch);
  positive("heads", c.heads);
  positive("query_tokens", c.query_tokens);
  positive("key_tokens", c.key_tokens);
  SLA2_CHECK(c.head_dim >= kMinDim && c.head_dim <= kMaxDim && c.head_dim % kDimStep == 0, SLA2_E_ARGUMENT,
             "attention: head_dim is {}; expected {} to {} in steps of {}", c.head_dim, kMinDim, kMaxDim, kDimStep);
  int64_t elements = c.head_dim;
  for (const int64_t factor : {c.batch, c.heads, std::max(c.query_tokens, c.key_tokens)}) {
    SLA2_CHECK(factor <= kMaxElements / elements, SLA2_E_ARGUMENT,
               "attention: batch {} · heads {} · tokens {} · head_dim {} is more than 2^56 elements", c.batch, c.heads,
               std::max(c.query_tokens, c.key_tokens), c.head_dim);
    elements *= factor;
  }
}

}  // namespace

Geometry make_geometry(const Config& c, Isa isa) {
  SLA2_CHECK(c.mode == Mode::kFull || c.mode == Mode::kSla2, SLA2_E_ARGUMENT,
             "attention: mode is {}; expected 1 (full) or 2 (sla2)", static_cast<int>(c.mode));
  SLA2_CHECK(c.mix == Mix::kHeadAffineLse || c.mix == Mix::kConst, SLA2_E_ARGUMENT,
             "attention: mix is {}; expected 1 (head_affine_lse) or 2 (const)", static_cast<int>(c.mix));
  SLA2_CHECK(c.products == DType::kF32 || c.products == DType::kBF16, SLA2_E_ARGUMENT,
             "attention: products are {}; expected fp32 or bf16", dtype_name(c.products));
  SLA2_CHECK(c.bits == 8 || c.bits == 16, SLA2_E_ARGUMENT, "attention: bits is {}; expected 8 or 16", c.bits);
  check_sizes(c);
  SLA2_CHECK(c.sparsity >= 0 && c.sparsity <= 1, SLA2_E_ARGUMENT, "attention: sparsity is {}; expected 0 to 1", c.sparsity);
  SLA2_CHECK(std::isfinite(c.softmax_scale) && c.softmax_scale >= 0, SLA2_E_ARGUMENT,
             "attention: softmax_scale is {}; expected a positive number, or 0 for 1/sqrt(head_dim)", c.softmax_scale);
  SLA2_CHECK(std::isfinite(c.mix_scale) && std::isfinite(c.mix_bias), SLA2_E_ARGUMENT,
             "attention: mix_scale is {} and mix_bias is {}; expected finite numbers", c.mix_scale, c.mix_bias);
  check_block("block_q", c.block_q, {32, 64, 128}, "32, 64, 128");
  check_block("block_k", c.block_k, {16, 32, 64, 128}, "16, 32, 64, 128");

  Geometry g;
  g.config = c;
  g.scale = c.softmax_scale > 0 ? c.softmax_scale : 1.0 / std::sqrt(static_cast<double>(c.head_dim));
  g.int8 = c.bits == 8 && isa >= Isa::kAvx512Bf16;
  g.fp8 = g.int8 && c.fp8_values;
  g.bf16 = g.int8 || (c.products == DType::kBF16 && isa >= Isa::kAvx512Bf16);
  g.dim = c.head_dim;
  g.panels = kernels::panels_of(g.dim);
  g.heads = c.batch * c.heads;
  g.key_blocks = ceil_div(c.key_tokens, c.block_k);
  g.kept = std::max<int64_t>(1, std::llround((1.0 - c.sparsity) * static_cast<double>(g.key_blocks)));
  g.mode = c.mode == Mode::kSla2 && g.kept < g.key_blocks ? Mode::kSla2 : Mode::kFull;
  g.block_q = g.mode == Mode::kSla2 ? c.block_q : kFullBlockQ;
  g.block_k = g.mode == Mode::kSla2 ? c.block_k : kFullBlockK;
  g.query_blocks = ceil_div(c.query_tokens, g.block_q);
  if (g.mode == Mode::kFull) g.kept = g.key_blocks = ceil_div(c.key_tokens, g.block_k);
  g.route_row = ceil_div(g.key_blocks, kernels::kRouteLanes) * kernels::kRouteLanes;
  g.group = std::min(g.heads, ceil_div(kTasksPerGroup, g.query_blocks));
  SLA2_CHECK(g.key_blocks <= INT32_MAX, SLA2_E_UNSUPPORTED, "attention: {} key blocks; at most 2^31 - 1 are supported",
             g.key_blocks);
  return g;
}

}  // namespace sla2::attention
