// SPDX-License-Identifier: Apache-2.0
// C door of attention.h: plans, sizes and facts. Calls are in attention_run.cpp.
#define SLA2_UNSTABLE
#include <sla2/attention.h>
#include <sla2/unstable.h>

#include "api/attention_call.h"
#include "api/guard.h"
#include "api/struct_size.h"
#include "device/device.h"

namespace attention = sla2::attention;
namespace device = sla2::device;

namespace sla2::api {
namespace {

sla2_attention_config default_config() {
  const attention::Config defaults;
  sla2_attention_config config{};
  config.struct_size = sizeof config;
  config.mode = SLA2_MODE_FULL;
  config.layout = SLA2_LAYOUT_BHND;
  config.mix = SLA2_MIX_HEAD_AFFINE_LSE;
  config.batch = 1;
  config.block_q = defaults.block_q;
  config.block_k = defaults.block_k;
  config.smooth_k = defaults.smooth_k ? 1 : 0;
  config.mix_scale = defaults.mix_scale;
  config.mix_bias = defaults.mix_bias;
  config.router = SLA2_ROUTER_SLA2;
  config.scope = SLA2_SCOPE_COMPLEMENT;
  config.rule = SLA2_RULE_TOPK;
  config.products = SLA2_PRODUCTS_F32;
  config.bits = defaults.bits;
  config.top_p = defaults.top_p;
  config.theta = defaults.theta;
  config.protect_near = defaults.protect_near;
  return config;
}

void check_choice(const char* name, int32_t value, int32_t first, int32_t last) {
  SLA2_CHECK(value >= first && value <= last, SLA2_E_ARGUMENT, "sla2_attention_config: {} is {}; expected {} to {}", name, value,
             first, last);
}

attention::Config to_config(const sla2_attention_config& c) {
  check_choice("mode", c.mode, SLA2_MODE_FULL, SLA2_MODE_POOLED);
  check_choice("layout", c.layout, SLA2_LAYOUT_BHND, SLA2_LAYOUT_BNHD);
  check_choice("mix", c.mix, SLA2_MIX_HEAD_AFFINE_LSE, SLA2_MIX_BLOCK);
  check_choice("smooth_k", c.smooth_k, 0, 1);
  check_choice("router", c.router, SLA2_ROUTER_SLA2, SLA2_ROUTER_GIVEN);
  check_choice("scope", c.scope, SLA2_SCOPE_COMPLEMENT, SLA2_SCOPE_GLOBAL);
  check_choice("rule", c.rule, SLA2_RULE_TOPK, SLA2_RULE_HYBRID);
  check_choice("products", c.products, SLA2_PRODUCTS_F32, SLA2_PRODUCTS_BF16);
  check_choice("fp8_values", c.fp8_values, 0, 1);
  SLA2_CHECK(c.reserved == 0 && c.reserved2 == 0, SLA2_E_VERSION,
             "sla2_attention_config: the reserved fields are {} and {}; expected 0", c.reserved, c.reserved2);
  attention::Config config;
  config.mode = static_cast<attention::Mode>(c.mode);
  config.mix = static_cast<attention::Mix>(c.mix);
  config.batch = c.batch;
  config.heads = c.heads;
  config.query_tokens = c.query_tokens;
  config.key_tokens = c.key_tokens;
  config.head_dim = c.head_dim;
  config.sparsity = c.sparsity;
  config.softmax_scale = c.softmax_scale;
  config.block_q = c.block_q;
  config.block_k = c.block_k;
  config.smooth_k = c.smooth_k == 1;
  config.mix_scale = c.mix_scale;
  config.mix_bias = c.mix_bias;
  config.router = static_cast<attention::Router>(c.router);
  config.scope = static_cast<attention::Scope>(c.scope);
  config.rule = static_cast<attention::Rule>(c.rule);
  config.products = c.products == SLA2_PRODUCTS_BF16 ? DType::kBF16 : DType::kF32;
  config.bits = c.bits;
  config.fp8_values = c.fp8_values == 1;
  config.kv_heads = c.kv_heads;
  config.negligible = c.negligible;
  config.tau = c.tau;
  config.top_p = c.top_p;
  config.theta = c.theta;
  config.protect_first = c.protect_first;
  config.protect_last = c.protect_last;
  config.protect_near = c.protect_near;
  config.min_tokens = c.min_tokens;
  return config;
}

}  // namespace
}  // namespace sla2::api

using namespace sla2;  // NOLINT(google-build-using-namespace): definitions of C functions only

sla2_status sla2_attention_config_init(sla2_attention_config* config, uint32_t size) {
  return api::guard([&] { api::init_struct(config, size, api::default_config(), "sla2_attention_config"); });
}

sla2_status sla2_attention_create(const sla2_attention_config* config, sla2_attention** plan) {
  return api::guard([&] {
    sla2_attention*& target = api::required(plan, "sla2_attention_create", "plan");
    const sla2_attention_config c = api::read_struct(config, api::default_config(), "sla2_attention_config");
    auto handle = std::make_unique<sla2_attention>(sla2_attention{attention::Plan::create(api::to_config(c)), c.layout, {}});
    target = handle.release();
  });
}

sla2_status sla2_attention_create_on(const sla2_attention_config* config, int32_t device_type, int32_t device_id,
                                     sla2_attention** plan) {
  if (device_type == SLA2_DEVICE_CPU) return sla2_attention_create(config, plan);
  return api::guard([&] {
    sla2_attention*& target = api::required(plan, "sla2_attention_create_on", "plan");
    SLA2_CHECK(device_type == SLA2_DEVICE_CUDA, SLA2_E_ARGUMENT,
               "sla2_attention_create_on: device_type is {}; expected SLA2_DEVICE_CPU (1) or SLA2_DEVICE_CUDA (2)", device_type);
    const sla2_attention_config c = api::read_struct(config, api::default_config(), "sla2_attention_config");
    const attention::Config values = api::to_config(c);
    auto handle = std::make_unique<sla2_attention>(
        sla2_attention{attention::Plan::create(values, device::Gpu::get(device_id)), c.layout, {device_type, device_id}});
    target = handle.release();
  });
}

void sla2_attention_destroy(sla2_attention* plan) { delete plan; }

sla2_status sla2_attention_workspace_size(const sla2_attention* plan, uint64_t* bytes) {
  return api::guard([&] {
    const sla2_attention& handle = api::required(plan, "sla2_attention_workspace_size", "plan");
    api::required(bytes, "sla2_attention_workspace_size", "bytes") = handle.plan->workspace_bytes();
  });
}

sla2_status sla2_attention_blocks(const sla2_attention* plan, int64_t* query_blocks, int64_t* key_blocks, int64_t* max_kept) {
  return api::guard([&] {
    const attention::Plan& p = *api::required(plan, "sla2_attention_blocks", "plan").plan;
    if (query_blocks != nullptr) *query_blocks = p.query_blocks();
    if (key_blocks != nullptr) *key_blocks = p.key_blocks();
    if (max_kept != nullptr) *max_kept = p.max_kept();
  });
}

sla2_status sla2_attention_backward_workspace_size(const sla2_attention* plan, uint64_t* bytes) {
  return api::guard([&] {
    const sla2_attention& handle = api::required(plan, "sla2_attention_backward_workspace_size", "plan");
    api::required(bytes, "sla2_attention_backward_workspace_size", "bytes") = handle.plan->backward_workspace_bytes();
  });
}

sla2_status sla2_attention_stats_init(sla2_attention_stats* stats, uint32_t size) {
  return api::guard([&] {
    sla2_attention_stats defaults{};
    defaults.struct_size = sizeof defaults;
    api::init_struct(stats, size, defaults, "sla2_attention_stats");
  });
}

sla2_status sla2_attention_get_stats(const sla2_attention* plan, sla2_attention_stats* stats) {
  return api::guard([&] {
    const attention::Stats& from = api::required(plan, "sla2_attention_get_stats", "plan").plan->stats();
    sla2_attention_stats value{};
    value.mode_used = static_cast<int32_t>(from.mode_used);
    value.achieved_sparsity = from.achieved_sparsity;
    value.blocks_kept = from.blocks_kept;
    value.blocks_total = from.blocks_total;
    value.mean_linear_weight = from.mean_linear_weight;
    value.bits_used = from.bits_used;
    value.products_used = from.products_used == DType::kBF16 ? SLA2_PRODUCTS_BF16 : SLA2_PRODUCTS_F32;
    api::write_struct(stats, value, "sla2_attention_stats");
  });
}
