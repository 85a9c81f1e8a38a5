// SPDX-License-Identifier: Apache-2.0
// C door of attention.h: the calls. Every value from outside is checked here; the arithmetic is in attention/.
#include <sla2/attention.h>

#include "api/attention_call.h"
#include "api/guard.h"
#include "api/struct_size.h"

namespace sla2::api {
namespace {

/// What forward and route have in common.
attention::Forward read_call(const sla2_qkv* in, const Parameters& parameters, const sla2_attention& plan, bool route_only,
                             Memory& memory) {
  const Inputs inputs = read_inputs(in, plan, route_only, memory);
  attention::Forward call;
  call.q = inputs.q, call.k = inputs.k, call.v = inputs.v;
  call.parameters = parameters.learned;
  call.key_bias = parameters.key_bias;
  call.given_mask = parameters.given_mask;
  if (parameters.has_given) call.given = &parameters.given;
  return call;
}

void run(sla2_attention& plan, const sla2_exec* exec, const sla2_qkv* in, const sla2_attention_params* params, void* workspace,
         uint64_t bytes, const sla2_attention_outputs& outputs) {
  check_reserved(outputs.reserved, "sla2_attention_outputs");
  const attention::Config& c = plan.plan->config();
  Memory memory(plan.where);
  const ThreadScope scope(exec, plan);
  const Parameters parameters = read_parameters(params, plan, memory);
  attention::Forward call = read_call(in, parameters, plan, false, memory);
  call.out = write_operand(outputs.out, "out", plan, c.heads, c.query_tokens, memory);
  SLA2_CHECK(call.out.dtype == call.q.dtype, SLA2_E_ARGUMENT, "out: element type {}; expected that of q, {}",
             dtype_name(call.out.dtype), dtype_name(call.q.dtype));
  call.stream = scope.stream();
  call.lse = write_floats(outputs.lse, "lse", {c.batch, c.heads, c.query_tokens}, memory);
  attention::BlockList list;
  if (outputs.list != nullptr) {
    list = read_list(outputs.list, "list", plan, true, memory);
    call.list = &list;
  }
  sla2_attention_probe told{};
  attention::Probe probe;
  if (outputs.probe != nullptr) {
    told = read_struct(outputs.probe, sla2_attention_probe{}, "sla2_attention_probe");
    check_reserved(told.reserved, "sla2_attention_probe");
    probe.fraction = told.fraction;
    call.probe = &probe;
  }
  check_workspace(workspace, bytes, plan.plan->workspace_bytes(), "sla2_attention_workspace_size", memory);
  memory.check_apart();
  plan.plan->forward(call, workspace);
  if (outputs.probe == nullptr) return;
  told.relative_l1 = probe.relative_l1;
  told.cosine = probe.cosine;
  told.blocks = probe.blocks;
  write_struct(outputs.probe, told, "sla2_attention_probe");
}

void route(sla2_attention& plan, const sla2_exec* exec, const sla2_qkv* in, const sla2_attention_params* params, void* workspace,
           uint64_t bytes, const sla2_block_list* target) {
  Memory memory(plan.where);
  const ThreadScope scope(exec, plan);
  const Parameters parameters = read_parameters(params, plan, memory);
  attention::Forward call = read_call(in, parameters, plan, true, memory);
  call.stream = scope.stream();
  attention::BlockList list = read_list(target, "list", plan, true, memory);
  call.list = &list;
  check_workspace(workspace, bytes, plan.plan->workspace_bytes(), "sla2_attention_workspace_size", memory);
  memory.check_apart();
  plan.plan->route(call, workspace);
}

attention::Gradients read_gradients(const sla2_attention_grads& to, const sla2_attention& plan, int64_t router_heads,
                                    Memory& memory) {
  check_reserved(to.reserved, "sla2_attention_grads");
  const attention::Config& c = plan.plan->config();
  const int64_t dim = c.head_dim;
  attention::Gradients g;
  if (to.q != nullptr) g.q = write_operand(to.q, "dq", plan, c.heads, c.query_tokens, memory);
  if (to.k != nullptr) g.k = write_operand(to.k, "dk", plan, c.kv_heads, c.key_tokens, memory);
  if (to.v != nullptr) g.v = write_operand(to.v, "dv", plan, c.kv_heads, c.key_tokens, memory);
  if (to.gate != nullptr) g.gate = write_operand(to.gate, "dgate", plan, c.heads, c.query_tokens, memory);
  g.router_q = write_floats(to.router_q, "drouter_q", {router_heads, dim, dim}, memory);
  g.router_k = write_floats(to.router_k, "drouter_k", {router_heads, dim, dim}, memory);
  switch (c.mix) {
    case attention::Mix::kHeadScalar: g.mix = write_floats(to.mix, "dmix", {c.heads}, memory); break;
    case attention::Mix::kBlock: g.mix = write_floats(to.mix, "dmix", {c.heads, plan.plan->query_blocks()}, memory); break;
    default: g.mix = write_floats(to.mix, "dmix", {c.heads, 2}, memory);
  }
  g.proj = write_floats(to.proj, "dproj", {dim, dim}, memory);
  g.proj_bias = write_floats(to.proj_bias, "dproj_bias", {dim}, memory);
  return g;
}

void backward(sla2_attention& plan, const sla2_exec* exec, const sla2_qkv* in, const sla2_attention_params* params,
              const sla2_attention_saved* saved_source, void* workspace, uint64_t bytes, const sla2_attention_grads* grads) {
  const attention::Config& c = plan.plan->config();
  const sla2_attention_saved saved = read_struct(saved_source, sla2_attention_saved{}, "sla2_attention_saved");
  check_reserved(saved.reserved, "sla2_attention_saved");
  Memory memory(plan.where);
  const ThreadScope scope(exec, plan);
  const Parameters parameters = read_parameters(params, plan, memory);
  SLA2_CHECK(parameters.key_bias == nullptr, SLA2_E_UNSUPPORTED,
             "key_bias: gradients of full attention with a bias are not built");
  const Inputs inputs = read_inputs(in, plan, false, memory);
  attention::Backward call;
  call.q = inputs.q, call.k = inputs.k, call.v = inputs.v;
  call.parameters = parameters.learned;
  call.stream = scope.stream();
  call.d_out = read_operand(saved.d_out, "d_out", plan, c.heads, c.query_tokens, memory);
  if (saved.out != nullptr) call.out = read_operand(saved.out, "out", plan, c.heads, c.query_tokens, memory);
  call.lse = read_floats(saved.lse, "lse", {c.batch, c.heads, c.query_tokens}, memory);
  attention::BlockList list;
  if (saved.list != nullptr) {
    list = read_list(saved.list, "list", plan, false, memory);
    call.list = &list;
  }
  call.gradients = read_gradients(read_struct(grads, sla2_attention_grads{}, "sla2_attention_grads"), plan,
                                  parameters.learned.router_heads, memory);
  check_workspace(workspace, bytes, plan.plan->backward_workspace_bytes(), "sla2_attention_backward_workspace_size", memory);
  memory.check_apart();
  plan.plan->backward(call, workspace);
}

/// _init of a struct whose defaults are all zero.
template <typename T>
sla2_status init_zeros(T* target, uint32_t size, const char* name) {
  return guard([&] {
    T defaults{};
    defaults.struct_size = sizeof defaults;
    init_struct(target, size, defaults, name);
  });
}

}  // namespace
}  // namespace sla2::api

using namespace sla2;  // NOLINT(google-build-using-namespace): definitions of C functions only

sla2_status sla2_qkv_init(sla2_qkv* qkv, uint32_t size) { return api::init_zeros(qkv, size, "sla2_qkv"); }
sla2_status sla2_block_list_init(sla2_block_list* list, uint32_t size) { return api::init_zeros(list, size, "sla2_block_list"); }
sla2_status sla2_attention_params_init(sla2_attention_params* params, uint32_t size) {
  return api::init_zeros(params, size, "sla2_attention_params");
}
sla2_status sla2_attention_probe_init(sla2_attention_probe* probe, uint32_t size) {
  return api::init_zeros(probe, size, "sla2_attention_probe");
}
sla2_status sla2_attention_outputs_init(sla2_attention_outputs* outputs, uint32_t size) {
  return api::init_zeros(outputs, size, "sla2_attention_outputs");
}
sla2_status sla2_attention_saved_init(sla2_attention_saved* saved, uint32_t size) {
  return api::init_zeros(saved, size, "sla2_attention_saved");
}
sla2_status sla2_attention_grads_init(sla2_attention_grads* grads, uint32_t size) {
  return api::init_zeros(grads, size, "sla2_attention_grads");
}

sla2_status sla2_attention_forward(sla2_attention* plan, const sla2_exec* exec, const sla2_qkv* in, void* workspace,
                                   uint64_t workspace_bytes, sla2_tensor* out) {
  return api::guard([&] {
    sla2_attention_outputs outputs{};
    outputs.out = out;
    api::run(api::required(plan, "sla2_attention_forward", "plan"), exec, in, nullptr, workspace, workspace_bytes, outputs);
  });
}

sla2_status sla2_attention_run(sla2_attention* plan, const sla2_exec* exec, const sla2_qkv* in,
                               const sla2_attention_params* params, void* workspace, uint64_t workspace_bytes,
                               const sla2_attention_outputs* outputs) {
  return api::guard([&] {
    sla2_attention& handle = api::required(plan, "sla2_attention_run", "plan");
    api::run(handle, exec, in, params, workspace, workspace_bytes,
             api::read_struct(outputs, sla2_attention_outputs{}, "sla2_attention_outputs"));
  });
}

sla2_status sla2_attention_route(sla2_attention* plan, const sla2_exec* exec, const sla2_qkv* in,
                                 const sla2_attention_params* params, void* workspace, uint64_t workspace_bytes,
                                 sla2_block_list* list) {
  return api::guard([&] {
    api::route(api::required(plan, "sla2_attention_route", "plan"), exec, in, params, workspace, workspace_bytes, list);
  });
}

sla2_status sla2_attention_backward(sla2_attention* plan, const sla2_exec* exec, const sla2_qkv* in,
                                    const sla2_attention_params* params, const sla2_attention_saved* saved, void* workspace,
                                    uint64_t workspace_bytes, const sla2_attention_grads* grads) {
  return api::guard([&] {
    api::backward(api::required(plan, "sla2_attention_backward", "plan"), exec, in, params, saved, workspace, workspace_bytes,
                  grads);
  });
}
