// SPDX-License-Identifier: Apache-2.0
#include "attention/request.h"

namespace sla2::attention {
namespace {

void check_operand(const char* name, const void* data, DType dtype) {
  SLA2_CHECK(data != nullptr, SLA2_E_ARGUMENT, "attention: {} has no data", name);
  SLA2_CHECK(dtype == DType::kF32 || dtype == DType::kBF16 || dtype == DType::kF16, SLA2_E_UNSUPPORTED,
             "attention: {} is {}; expected fp32, bf16 or fp16", name, dtype_name(dtype));
}

/// A parameter that nothing would read is a mistake of the caller.
void check_use(const char* name, bool given, bool used, const char* where) {
  SLA2_CHECK(!given || used, SLA2_E_ARGUMENT, "attention: {} was given; only {} reads it", name, where);
}

void check_parameters(const Geometry& g, const Parameters& p) {
  const Config& c = g.config;
  SLA2_CHECK(p.router_heads == 1 || p.router_heads == c.heads, SLA2_E_ARGUMENT,
             "attention: router_heads is {}; expected 1 or heads, {}", p.router_heads, c.heads);
  check_use("router_q or router_k", p.router_q != nullptr || p.router_k != nullptr,
            c.mode != Mode::kFull && c.mode != Mode::kLinearOnly && c.router != Router::kGiven, "a router with scores");
  check_use("mix", p.mix != nullptr, c.mode == Mode::kSla2 && c.mix != Mix::kConst, "mode sla2 with another mix than const");
  check_use("proj or proj_bias", p.proj != nullptr || p.proj_bias != nullptr, c.mode == Mode::kSla1, "mode sla1");
  check_use("gate", p.gate.data != nullptr, g.routed && c.router == Router::kVsa, "router vsa");
  if (p.gate.data != nullptr) check_operand("gate", p.gate.data, p.gate.dtype);
}

void check_given_row(const Geometry& g, int64_t row, const BlockList& list) {
  const int64_t count = list.count[row], most = std::min(list.capacity, g.key_blocks);
  const int64_t head = row / g.query_blocks, block = row % g.query_blocks;
  SLA2_CHECK(count >= 1 && count <= most, SLA2_E_ARGUMENT,
             "attention: given list, head {}, query block {}: {} blocks; expected 1 to {}", head, block, count, most);
  const int32_t* const index = list.index + row * list.capacity;
  for (int64_t i = 0; i < count; ++i)
    SLA2_CHECK(index[i] >= 0 && index[i] < g.key_blocks && (i == 0 || index[i] > index[i - 1]), SLA2_E_ARGUMENT,
               "attention: given list, head {}, query block {}: block {} at place {}; expected ascending numbers below {}", head,
               block, index[i], i, g.key_blocks);
}

void check_given(const Geometry& g, const Forward& in, bool on_device) {
  const bool by_list = in.given != nullptr, by_mask = in.given_mask != nullptr;
  const bool reads = g.routed && g.config.router == Router::kGiven;
  check_use("a block list or mask", by_list || by_mask, reads, "router given");
  if (!reads) return;
  SLA2_CHECK(by_list != by_mask, SLA2_E_ARGUMENT, "attention: router given needs either a block list or a byte mask; got {}",
             by_list ? "both" : "neither");
  SLA2_CHECK(by_mask || (in.given->index != nullptr && in.given->count != nullptr), SLA2_E_ARGUMENT,
             "attention: the given list has no memory");
  if (on_device) return;
  for (int64_t row = 0; row < g.heads * g.query_blocks; ++row) {
    if (by_list) {
      check_given_row(g, row, *in.given);
      continue;
    }
    const uint8_t* const mask = in.given_mask + row * g.key_blocks;
    SLA2_CHECK(std::any_of(mask, mask + g.key_blocks, [](uint8_t m) { return m != 0; }), SLA2_E_ARGUMENT,
               "attention: given mask, head {}, query block {}: no block is kept; expected at least one", row / g.query_blocks,
               row % g.query_blocks);
  }
}

}  // namespace

void check_request(const Geometry& g, const Forward& in, const void* workspace, bool route_only, bool on_device) {
  SLA2_CHECK(workspace != nullptr, SLA2_E_ARGUMENT, "attention: the workspace is null");
  check_operand("q", in.q.data, in.q.dtype);
  check_operand("k", in.k.data, in.k.dtype);
  if (!route_only) {
    check_operand("v", in.v.data, in.v.dtype);
    check_operand("out", in.out.data, in.out.dtype);
    SLA2_CHECK(in.probe == nullptr || (in.probe->fraction > 0 && in.probe->fraction <= 1), SLA2_E_ARGUMENT,
               "attention: the probe's fraction is {}; expected above 0, up to 1", in.probe->fraction);
  }
  SLA2_CHECK(in.times == nullptr || !on_device, SLA2_E_UNSUPPORTED, "attention on CUDA: times of the parts; leave them out");
  SLA2_CHECK(in.key_bias == nullptr || g.config.mode == Mode::kFull, SLA2_E_UNSUPPORTED,
             "attention: a key bias was given in mode {}; only mode 1 (full) takes one", static_cast<int>(g.config.mode));
  SLA2_CHECK(in.list == nullptr || (in.list->index != nullptr && in.list->count != nullptr && in.list->capacity >= g.max_kept),
             SLA2_E_ARGUMENT, "attention: the block list has capacity {} or no memory; expected at least {} per row",
             in.list == nullptr ? 0 : in.list->capacity, g.max_kept);
  check_parameters(g, in.parameters);
  check_given(g, in, on_device);
}

}  // namespace sla2::attention
