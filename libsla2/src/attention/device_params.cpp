// SPDX-License-Identifier: Apache-2.0
// From one call to the parameters of its kernels.
#include <cmath>

#include "attention/device_plan.h"
#include "attention/device_rows.h"

namespace sla2::attention {
namespace {

constexpr double kLog2E = 1.4426950408889634;

int32_t narrow(int64_t x) { return static_cast<int32_t>(x); }

/// Where lists of kept blocks lie: the caller's, or the workspace's.
BlockList kept_list(const DeviceCall& call) {
  if (call.in.list != nullptr) return *call.in.list;
  return {call.workspace.list, call.workspace.count, call.geometry.max_kept};
}

cuda::RouteRule rule_of(const Config& c) {
  switch (c.router) {
    case Router::kGiven: return cuda::kRuleGiven;
    case Router::kVmoba: return cuda::kRuleStretch;
    case Router::kSparge:
      return c.rule == Rule::kTopK ? cuda::kRuleAlike : c.rule == Rule::kCdf ? cuda::kRuleCdf : cuda::kRuleHybrid;
    default: return cuda::kRuleTop;
  }
}

}  // namespace

cuda::PoolParams pool_params(const DeviceCall& call) {
  const Geometry& g = call.geometry;
  const DeviceWorkspace& w = call.workspace;
  cuda::PoolParams p{};
  p.k = rows(call.in.k, g.config.kv_heads);
  if (!call.route_only) p.v = rows(call.in.v, g.config.kv_heads), p.value_peaks = w.value_peaks, p.value_means = w.value_means;
  p.means = w.means;
  p.key_tokens = g.config.key_tokens;
  p.dim = narrow(g.dim), p.width = call.shape.width, p.block_k = narrow(g.block_k), p.mean_row = call.shape.mean_row;
  return p;
}

cuda::CentreParams centre_params(const DeviceCall& call) {
  const Geometry& g = call.geometry;
  const DeviceWorkspace& w = call.workspace;
  cuda::CentreParams p{};
  p.means = w.means, p.shift = w.shift, p.mean_keys = w.mean_keys;
  p.value_top = cuda::fp8_values_top(call.shape.products);
  if (!call.route_only) p.value_peaks = w.value_peaks, p.value_scale = w.value_scale;
  p.key_tokens = g.config.key_tokens;
  p.dim = narrow(g.dim), p.width = call.shape.width, p.block_k = narrow(g.block_k), p.mean_row = call.shape.mean_row;
  p.key_blocks = narrow(g.key_blocks);
  return p;
}

cuda::LikenessParams likeness_params(const DeviceCall& call) {
  const Geometry& g = call.geometry;
  const DeviceWorkspace& w = call.workspace;
  return {rows(call.in.k, g.config.kv_heads), w.shift, w.likeness, g.config.key_tokens, narrow(g.dim), narrow(g.block_k)};
}

cuda::RouteParams route_params(const DeviceCall& call) {
  const Geometry& g = call.geometry;
  const Config& c = g.config;
  const DeviceWorkspace& w = call.workspace;
  const Parameters& learned = call.in.parameters;
  cuda::RouteParams p{};
  p.q = rows(call.in.q, c.heads);
  p.means = w.means, p.likeness = w.likeness;
  p.router_q = learned.router_q, p.router_k = learned.router_k;
  if (call.in.given != nullptr)
    p.given = call.in.given->index, p.given_count = call.in.given->count, p.given_capacity = call.in.given->capacity;
  p.given_mask = call.in.given_mask;
  const BlockList list = kept_list(call);
  p.list = list.index, p.count = list.count, p.capacity = list.capacity;
  p.apart = w.apart, p.apart_count = w.apart_count;
  p.rest_log_sum = w.rest_log_sum, p.kept_bits = w.kept_bits;
  if (learned.gate.data != nullptr && !call.route_only) p.value_means = w.value_means, p.coarse = w.coarse;
  p.soft = w.soft;
  const double share = static_cast<double>(g.top_k) / static_cast<double>(g.key_blocks);
  p.tau = c.tau, p.soft_middle = std::log(share / (1 - share));
  p.scale = g.scale, p.top_p = c.top_p, p.theta = c.theta;
  p.query_tokens = c.query_tokens, p.key_tokens = c.key_tokens;
  p.map = call.shape.route;
  p.dim = narrow(g.dim), p.width = call.shape.width, p.block_q = narrow(g.block_q), p.block_k = narrow(g.block_k);
  p.query_blocks = narrow(g.query_blocks), p.key_blocks = narrow(g.key_blocks), p.mean_row = call.shape.mean_row;
  p.keep = narrow(g.top_k), p.heads = narrow(c.heads), p.heads_per_key = narrow(g.heads_per_key);
  p.router_heads = narrow(learned.router_heads);
  p.rule = rule_of(c);
  p.protect_first = c.protect_first, p.protect_last = c.protect_last;
  p.protect_near = c.router == Router::kVmoba ? std::max(c.protect_near, 0) : c.protect_near;
  p.drop = narrow(std::llround(c.negligible * static_cast<double>(g.key_blocks)));
  p.everywhere = call.shape.everywhere ? 1 : 0;
  return p;
}

cuda::PackParams pack_params(const DeviceCall& call) {
  const Geometry& g = call.geometry;
  const DeviceWorkspace& w = call.workspace;
  cuda::PackParams p{};
  p.k = rows(call.in.k, g.config.kv_heads), p.v = rows(call.in.v, g.config.kv_heads);
  p.shift = g.centred() ? w.shift : nullptr, p.value_scale = w.value_scale;
  p.keys = w.keys, p.key_scale = w.key_scale, p.values = w.values, p.values8 = w.values8, p.features = w.features, p.z = w.z;
  p.key_tokens = g.config.key_tokens;
  p.dim = narrow(g.dim), p.width = call.shape.width, p.block_k = narrow(g.block_k), p.key_blocks = narrow(g.key_blocks);
  p.tiles = call.shape.key_tiles + call.shape.mean_tiles, p.scales = call.shape.scales;
  p.smooth_features = g.config.smooth_k ? 1 : 0;
  return p;
}

cuda::PackParams pack_means_params(const DeviceCall& call) {
  const Geometry& g = call.geometry;
  const DeviceShape& s = call.shape;
  const int64_t row = s.width, head = g.key_blocks * row;
  const auto means = [&](const float* data) {
    return rows(Operand{data, DType::kF32, g.config.kv_heads * head, head, row}, g.config.kv_heads);
  };
  cuda::PackParams p = pack_params(call);
  p.k = means(call.workspace.mean_keys), p.v = means(call.workspace.value_means);
  p.shift = nullptr;  // it has been taken off
  p.key_tokens = g.key_blocks;
  p.block_k = cuda::kTileKeys, p.key_blocks = s.mean_tiles;
  p.first_tile = s.key_tiles, p.first_scale = narrow(g.key_blocks);
  return p;
}

cuda::AttendParams attend_params(const DeviceCall& call) {
  const Geometry& g = call.geometry;
  const DeviceShape& s = call.shape;
  const DeviceWorkspace& w = call.workspace;
  const Config& c = g.config;
  const Forward& in = call.in;
  cuda::AttendParams p{};
  p.q = rows(in.q, c.heads), p.out = rows(in.out, c.heads);
  p.keys = w.keys, p.values = s.fp8 ? w.values8 : w.values, p.features = w.features, p.feature_values = w.values;
  p.key_scale = w.key_scale, p.value_scale = w.value_scale;
  p.key_bias = in.key_bias;
  p.soft = w.soft, p.soft_linear = s.soft && s.linear && !s.everywhere ? 1 : 0;
  if (g.routed && !s.soft) {
    const BlockList list = kept_list(call);
    p.list = list.index, p.count = list.count, p.capacity = list.capacity;
    if (w.apart != nullptr)
      p.apart = w.apart, p.apart_count = w.apart_count, p.apart_capacity = g.key_blocks;
    else if (!s.everywhere)
      p.apart = list.index, p.apart_count = list.count, p.apart_capacity = list.capacity;
  }
  p.state_total = w.state_total, p.z_total = w.z_total, p.z = w.z;
  p.rest_log_sum = w.rest_log_sum, p.mix = in.parameters.mix;
  p.proj = in.parameters.proj, p.proj_bias = in.parameters.proj_bias;
  if (in.parameters.gate.data != nullptr) p.gate = rows(in.parameters.gate, c.heads), p.coarse = w.coarse;
  p.kept_bits = w.kept_bits;
  p.shift = in.lse != nullptr && g.centred() ? w.shift : nullptr;
  p.lse = in.lse, p.linear_shares = w.linear_shares;
  p.query_tokens = c.query_tokens, p.key_tokens = c.key_tokens;
  p.scale = static_cast<float>(g.scale * kLog2E);
  p.mix_scale = static_cast<float>(c.mix_scale), p.mix_bias = static_cast<float>(c.mix_bias);
  p.dim = narrow(g.dim), p.block_q = narrow(g.block_q), p.block_k = narrow(g.block_k);
  p.query_blocks = narrow(g.query_blocks), p.key_blocks = narrow(g.key_blocks);
  p.tiles = s.key_tiles + s.mean_tiles, p.key_tiles = s.key_tiles, p.mean_tiles = s.mean_tiles, p.scales = s.scales;
  p.tiles_per_block = s.tiles_per_block, p.blocks_per_tile = s.blocks_per_tile;
  p.heads = narrow(c.heads), p.heads_per_key = narrow(g.heads_per_key);
  p.join = g.mode == Mode::kSla2         ? cuda::kJoinMix
           : g.mode == Mode::kSla1       ? cuda::kJoinProject
           : g.mode == Mode::kLPlusS     ? cuda::kJoinSum
           : g.mode == Mode::kLinearOnly ? cuda::kJoinLinear
                                         : cuda::kJoinSoftmax;
  p.mix_by_lse = c.mix == Mix::kHeadAffineLse ? 1 : 0;
  if (in.parameters.mix != nullptr)
    p.mix_source = c.mix == Mix::kHeadScalar ? cuda::kMixScalar : c.mix == Mix::kBlock ? cuda::kMixBlock : cuda::kMixAffine;
  p.turns = static_cast<uint32_t>(g.heads * g.query_blocks);
  p.stream_at = s.stream_at;
  return p;
}

cuda::AttendParams probe_params(const DeviceCall& call, int64_t probes) {
  cuda::AttendParams p = attend_params(call);
  p.list = p.count = p.apart = p.apart_count = nullptr;
  p.mean_tiles = 0, p.soft = nullptr;
  p.join = cuda::kJoinSoftmax;
  p.coarse = p.shift = nullptr, p.lse = p.linear_shares = nullptr;
  p.probe = call.workspace.probe, p.probes = narrow(probes);
  p.turns = static_cast<uint32_t>(call.geometry.heads * probes);
  return p;
}

cuda::SummaryParams summary_params(const DeviceCall& call, int64_t probes, cuda::Summary* out) {
  const Geometry& g = call.geometry;
  cuda::SummaryParams p{};
  if (g.routed && !call.shape.soft) p.count = kept_list(call).count;
  if (!call.route_only) p.linear_shares = call.workspace.linear_shares;
  if (probes > 0) p.probe = call.workspace.probe;
  p.out = out;
  p.rows = g.heads * g.query_blocks, p.probed = g.heads * probes;
  p.warps = static_cast<int32_t>(call.shape.threads / 32);
  return p;
}

}  // namespace sla2::attention
