// SPDX-License-Identifier: Apache-2.0
#include "ops.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <fnmatch.h>

#include <iterator>

#include "kernels/attention_ops.h"

namespace sla2::check {
namespace {

using Address = const void*;
struct Op {
  const char *name, *alone;
  Address (*of)(const kernels::AttentionOps&);
};
constexpr const char* kStudy = "a model of a GPU's arithmetic for studies: plain code only";

#define SLA2_OP_ALONE(op, why)                                                                   \
  {                                                                                              \
#op, why, [](const kernels::AttentionOps& ops) { return reinterpret_cast<Address>(ops.op); } \
  }
#define SLA2_OP(op) SLA2_OP_ALONE(op, "")
constexpr Op kOps[] = {
    SLA2_OP(panel_gemm),
    SLA2_OP(online_softmax),
    SLA2_OP(rescale_rows),
    SLA2_OP(feature_map),
    SLA2_OP(route_scores),
    SLA2_OP(load_rows),
    SLA2_OP(shift_rows),
    SLA2_OP(mean_rows),
    SLA2_OP(merge_rows),
    SLA2_OP(block_sum),
    SLA2_OP(attend_bf16),
    SLA2_OP(pack_keys_bf16),
    SLA2_OP(pack_values_bf16),
    SLA2_OP(narrow_rows_bf16),
    SLA2_OP(features_bf16),
    SLA2_OP(key_features_bf16),
    SLA2_OP(key_state_bf16),
    SLA2_OP(sum_states_bf16),
    SLA2_OP(apply_state_bf16),
    SLA2_OP(feature_sums_bf16),
    SLA2_OP(attend_int8),
    SLA2_OP(quantise_rows_int8),
    SLA2_OP(pack_keys_int8),
    SLA2_OP_ALONE(attend_fp8, kStudy),
    SLA2_OP_ALONE(largest_per_channel, kStudy),
    SLA2_OP_ALONE(pack_values_fp8, kStudy),
    SLA2_OP(softmax_gradient),
    SLA2_OP(softmax_gradient_bf16),
    SLA2_OP(gemm_bf16),
    SLA2_OP(row_dots),
    SLA2_OP(through_features),
};
#undef SLA2_OP
#undef SLA2_OP_ALONE
static_assert(sizeof(kernels::AttentionOps) == std::size(kOps) * sizeof(Address),
              "kernels/attention_ops.h has an op that is not in this list");

}  // namespace

std::vector<OpVersions> op_versions() {
  std::vector<OpVersions> result;
  for (const Op& op : kOps) {
    OpVersions versions{op.name, {}, op.alone};
    Address last = nullptr;
    for (const Isa isa : kAllIsas) {
      const Address here = op.of(kernels::attention_ops(isa));
      if (here != last) versions.isas.emplace_back(isa_name(isa));
      last = here;
    }
    result.push_back(std::move(versions));
  }
  return result;
}

std::string op_table(const std::string& pattern) {
  std::string text;
  for (const OpVersions& op : op_versions())
    if (fnmatch(pattern.c_str(), op.name.c_str(), 0) == 0)
      text += fmt::format("{:<22} {}{}\n", op.name, fmt::join(op.isas, ", "), op.alone.empty() ? "" : " (" + op.alone + ")");
  return text;
}

std::vector<std::string> lone_ops(const std::vector<OpVersions>& ops) {
  std::vector<std::string> wrong;
  for (const OpVersions& op : ops)
    if (op.isas.size() < 2 && op.alone.empty())
      wrong.push_back(
          fmt::format("op {} has one version ({}): nothing can be held against it", op.name, fmt::join(op.isas, ", ")));
  return wrong;
}

}  // namespace sla2::check
