// SPDX-License-Identifier: Apache-2.0
#include "attention/geometry.h"

#include <cmath>
#include <initializer_list>

#include "core/arithmetic.h"
#include "kernels/attention_ops.h"
#include "kernels/panel_gemm.h"
#include "kernels/route_scores.h"
#include "kernels/tiles.h"

namespace sla2::attention {
namespace {

constexpr int64_t kMinDim = 32, kMaxDim = 256, kDimStep = 8;
constexpr int64_t kMostKeys = int64_t{1} << 34;     // keeps the number of every block inside int32
constexpr int64_t kMaxElements = int64_t{1} << 56;  // keeps every byte offset inside int64

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

template <typename Enum>
void check_choice(const char* name, Enum value, Enum last, const char* words) {
  const auto number = static_cast<int>(value);
  SLA2_CHECK(number >= 1 && number <= static_cast<int>(last), SLA2_E_ARGUMENT, "attention: {} is {}; expected one of {}", name,
             number, words);
}

void check_choices(const Config& c) {
  check_choice("mode", c.mode, Mode::kPooled,
               "1 (full), 2 (sla2), 3 (sla1), 4 (sparse_only), 5 (linear_only), 6 (l_plus_s), 7 (pooled)");
  check_choice("router", c.router, Router::kGiven, "1 (sla2), 2 (sla1), 3 (vsa), 4 (vmoba), 5 (sparge), 6 (given)");
  check_choice("mix", c.mix, Mix::kBlock, "1 (head_affine_lse), 2 (const), 3 (head_scalar), 4 (block)");
  check_choice("scope", c.scope, Scope::kGlobal, "1 (complement), 2 (global)");
  check_choice("rule", c.rule, Rule::kHybrid, "1 (topk), 2 (cdf), 3 (hybrid)");
  SLA2_CHECK(c.products == DType::kF32 || c.products == DType::kBF16, SLA2_E_ARGUMENT,
             "attention: products are {}; expected fp32 or bf16", dtype_name(c.products));
  SLA2_CHECK(c.bits == 8 || c.bits == 16, SLA2_E_ARGUMENT, "attention: bits is {}; expected 8 or 16", c.bits);
}

void check_numbers(const Config& c) {
  const auto within = [](const char* name, double value, double low, double high) {
    SLA2_CHECK(value >= low && value <= high, SLA2_E_ARGUMENT, "attention: {} is {}; expected {} to {}", name, value, low, high);
  };
  within("sparsity", c.sparsity, 0, 1);
  within("negligible", c.negligible, 0, 1);
  within("top_p", c.top_p, 0, 1);
  within("theta", c.theta, -1, 1);
  SLA2_CHECK(std::isfinite(c.softmax_scale) && c.softmax_scale >= 0, SLA2_E_ARGUMENT,
             "attention: softmax_scale is {}; expected a positive number, or 0 for 1/sqrt(head_dim)", c.softmax_scale);
  SLA2_CHECK(std::isfinite(c.mix_scale) && std::isfinite(c.mix_bias), SLA2_E_ARGUMENT,
             "attention: mix_scale is {} and mix_bias is {}; expected finite numbers", c.mix_scale, c.mix_bias);
  SLA2_CHECK(std::isfinite(c.tau) && c.tau >= 0, SLA2_E_ARGUMENT,
             "attention: tau is {}; expected a positive temperature, or 0 for a hard mask", c.tau);
  SLA2_CHECK(c.protect_first >= 0 && c.protect_last >= 0 && c.protect_near >= -1, SLA2_E_ARGUMENT,
             "attention: protect_first is {}, protect_last {}, protect_near {}; expected at least 0, 0 and -1", c.protect_first,
             c.protect_last, c.protect_near);
  SLA2_CHECK(c.min_tokens >= 0, SLA2_E_ARGUMENT, "attention: min_tokens is {}; expected 0 or more", c.min_tokens);
  check_block("block_q", c.block_q, {32, 64, 128}, "32, 64, 128");
  check_block("block_k", c.block_k, {16, 32, 64, 128}, "16, 32, 64, 128");
}

/// Settings that are fine alone and mean nothing together.
void check_together(const Config& c) {
  SLA2_CHECK(c.kv_heads >= 0 && (c.kv_heads == 0 || c.heads % c.kv_heads == 0), SLA2_E_ARGUMENT,
             "attention: kv_heads is {}; expected 0 or a divisor of heads, {}", c.kv_heads, c.heads);
  SLA2_CHECK(c.negligible == 0 || c.mode == Mode::kSla1, SLA2_E_ARGUMENT,
             "attention: negligible is {}; only mode 3 (sla1) leaves blocks out, expected 0", c.negligible);
  SLA2_CHECK(c.negligible == 0 || (c.router != Router::kVmoba && c.router != Router::kSparge && c.router != Router::kGiven),
             SLA2_E_ARGUMENT,
             "attention: negligible is {} with router {}; routers 1 (sla2), 2 (sla1) and 3 (vsa) rank all blocks", c.negligible,
             static_cast<int>(c.router));
  if (c.tau == 0) return;
  SLA2_CHECK(c.router == Router::kSla2 || c.router == Router::kSla1, SLA2_E_ARGUMENT,
             "attention: tau is {} with router {}; SoftTop-k goes with routers 1 (sla2) and 2 (sla1)", c.tau,
             static_cast<int>(c.router));
  SLA2_CHECK(
      c.negligible == 0 && c.protect_first == 0 && c.protect_last == 0 && c.protect_near < 0, SLA2_E_ARGUMENT,
      "attention: tau is {} with protected or negligible blocks; a soft mask has neither: leave protect_* and negligible at "
      "their defaults",
      c.tau);
}

/// max(1, round((1 - sparsity) · T_n)); router vsa rounds up.
int64_t blocks_by_sparsity(const Config& c, int64_t key_blocks) {
  constexpr double kRoundOff = 1e-9;  // (1 - 0.7) · 10 is 3, whatever its last bit says
  const double share = (1.0 - c.sparsity) * static_cast<double>(key_blocks);
  const int64_t count = c.router == Router::kVsa ? static_cast<int64_t>(std::ceil(share - kRoundOff)) : std::llround(share);
  return std::clamp<int64_t>(count, 1, key_blocks);
}

struct Kept {
  int64_t least, most;  ///< over query blocks
};

/// What is known about the number of kept blocks before any data is seen.
Kept count_kept(const Geometry& g) {
  const Config& c = g.config;
  if (g.soft) return {g.top_k, g.key_blocks};
  const bool by_data = c.router == Router::kVmoba || c.router == Router::kGiven ||
                       (c.router == Router::kSparge && (c.rule != Rule::kTopK || c.theta > 0 || g.protects()));
  if (by_data) return {1, g.key_blocks};
  if (!g.protects()) return {g.top_k, g.top_k};
  Kept kept{g.key_blocks, g.top_k};
  for (int64_t i = 0; i < g.query_blocks; ++i) {
    int64_t always = 0;
    for (int64_t j = 0; j < g.key_blocks; ++j) always += g.is_protected(i, j) ? 1 : 0;
    kept.least = std::min(kept.least, std::max(g.top_k, always));
    kept.most = std::max(kept.most, always);
  }
  return kept;
}

/// Where full attention is the same function, or its better known neighbour; modes with learned parts are not replaced.
bool falls_back(const Geometry& g, int64_t least_kept) {
  const Config& c = g.config;
  const bool replaceable = (c.mode == Mode::kSla2 || c.mode == Mode::kSparseOnly || c.mode == Mode::kPooled) &&
                           c.router != Router::kVsa && c.router != Router::kGiven;
  return replaceable && (least_kept == g.key_blocks || c.key_tokens < c.min_tokens);
}

/// What is multiplied as what. Where bf16 numbers must be widened to be multiplied, fp32 is faster; bytes are worth it in the
/// softmax branch everywhere.
void set_products(Geometry& g, Isa isa) {
  const Config& c = g.config;
  const bool multiplies_bf16 = kernels::multiplies_bf16(isa);
  g.int8 = c.bits == 8;
  g.fp8 = g.int8 && c.fp8_values;
  g.bf16 = g.int8 || (c.products == DType::kBF16 && multiplies_bf16);
  g.linear_bf16 = g.bf16 && multiplies_bf16;
}

void set_blocks(Geometry& g, int64_t block_q, int64_t block_k) {
  g.block_q = block_q;
  g.block_k = block_k;
  g.query_blocks = ceil_div(g.config.query_tokens, block_q);
  g.key_blocks = ceil_div(g.config.key_tokens, block_k);
}

void set_mode(Geometry& g, Mode mode) {
  g.mode = mode;
  g.routed = mode != Mode::kFull && mode != Mode::kLinearOnly;
  g.linear = mode == Mode::kSla2 || mode == Mode::kSla1 || mode == Mode::kLinearOnly || mode == Mode::kLPlusS;
  g.pooled = mode == Mode::kPooled;
  g.soft = g.routed && g.config.tau > 0;
}

}  // namespace

bool Geometry::protects() const {
  return config.protect_first > 0 || config.protect_last > 0 || config.protect_near >= 0 || config.router == Router::kVmoba;
}

bool Geometry::is_protected(int64_t i, int64_t j) const {
  if (j < config.protect_first || j >= key_blocks - config.protect_last) return true;
  const int64_t near = config.router == Router::kVmoba ? std::max(config.protect_near, 0) : config.protect_near;
  const Range own = own_blocks(i, near);
  return near >= 0 && j >= own.first && j <= own.last;
}

Geometry make_geometry(const Config& c, Isa isa) {
  check_choices(c);
  check_sizes(c);
  check_numbers(c);
  check_together(c);
  SLA2_CHECK(c.key_tokens <= kMostKeys, SLA2_E_UNSUPPORTED, "attention: {} key tokens; at most 2^34 are supported", c.key_tokens);

  Geometry g;
  g.config = c;
  if (c.kv_heads == 0) g.config.kv_heads = c.heads;
  g.scale = c.softmax_scale > 0 ? c.softmax_scale : 1.0 / std::sqrt(static_cast<double>(c.head_dim));
  set_products(g, isa);
  g.dim = c.head_dim;
  g.panels = kernels::panels_of(g.dim);
  g.heads = c.batch * c.heads;
  g.key_heads = c.batch * g.config.kv_heads;
  g.heads_per_key = c.heads / g.config.kv_heads;
  set_blocks(g, c.block_q, c.block_k);
  g.list_query_blocks = g.query_blocks;
  g.list_key_blocks = g.max_kept = g.key_blocks;
  set_mode(g, c.mode);
  if (g.routed) {
    g.top_k = blocks_by_sparsity(c, g.key_blocks);
    const Kept kept = count_kept(g);
    g.max_kept = kept.most;
    if (falls_back(g, kept.least)) set_mode(g, Mode::kFull), g.max_kept = g.key_blocks;
  }
  if (g.soft) g.int8 = g.bf16 = g.fp8 = g.linear_bf16 = false;  // a soft mask is for training: its weights are summed in fp32
  if (g.mode == Mode::kLinearOnly) g.max_kept = 0;
  if (g.mode == Mode::kFull) set_blocks(g, kernels::kFullBlockQ, kernels::kFullBlockK);
  if (g.pooled) g.mean_blocks = ceil_div(g.key_blocks, g.block_k);
  g.route_row = ceil_div(g.key_blocks, kernels::kRouteLanes) * kernels::kRouteLanes;
  g.group = std::min(g.key_heads, ceil_div(kernels::kTasksPerGroup, g.query_blocks * g.heads_per_key));
  return g;
}

}  // namespace sla2::attention
