// SPDX-License-Identifier: Apache-2.0
#include "api/attention_call.h"

#include "api/struct_size.h"
#include "core/core.h"

namespace sla2::api {
namespace {

constexpr uintptr_t kWorkspaceAlignment = 64;  // promised by attention.h

sla2_exec read_exec(const sla2_exec* exec, const Where& where) {
  sla2_exec defaults{};
  defaults.device_type = SLA2_DEVICE_CPU;
  const bool cpu = where.device_type == SLA2_DEVICE_CPU;
  SLA2_CHECK(cpu || exec != nullptr, SLA2_E_ARGUMENT, "sla2_exec: NULL; a plan on device {} needs one with the stream",
             where.device_id);
  if (exec == nullptr) return defaults;
  const sla2_exec e = read_struct(exec, defaults, "sla2_exec");
  SLA2_CHECK(e.device_type == where.device_type && (cpu ? e.stream == nullptr : e.device_id == where.device_id),
             SLA2_E_UNSUPPORTED,
             "sla2_exec: device type {}, device {}; the plan runs on device type {}, device {}; a stream goes with CUDA alone",
             e.device_type, e.device_id, where.device_type, where.device_id);
  SLA2_CHECK(cpu || e.run == nullptr, SLA2_E_UNSUPPORTED,
             "sla2_exec: `run` is set; the plan runs on device {}, which takes no threads of the host: set it to NULL",
             where.device_id);
  SLA2_CHECK(e.threads >= 0, SLA2_E_ARGUMENT, "sla2_exec: threads is {}; expected 0 (all) or more", e.threads);
  return e;
}

/// A tensor of the plan's shape in the plan's layout.
struct Argument {
  sla2_tensor tensor;
  DType dtype;
  int64_t stride_batch, stride_head, stride_token;
};

Argument read_argument(const sla2_tensor* source, const char* name, const sla2_attention& plan, int64_t heads, int64_t tokens) {
  const attention::Config& c = plan.plan->config();
  const sla2_tensor t = read_tensor(source, name, plan.where);
  const bool heads_first = plan.layout == SLA2_LAYOUT_BHND;
  const std::array<int64_t, 4> shape = heads_first ? std::array<int64_t, 4>{c.batch, heads, tokens, c.head_dim}
                                                   : std::array<int64_t, 4>{c.batch, tokens, heads, c.head_dim};
  SLA2_CHECK(t.ndim == 4, SLA2_E_ARGUMENT, "{}: {} axes; expected 4, {}", name, t.ndim, heads_first ? "[B,H,N,D]" : "[B,N,H,D]");
  for (int axis = 0; axis < 4; ++axis)
    SLA2_CHECK(t.shape[axis] == shape[static_cast<size_t>(axis)], SLA2_E_ARGUMENT,
               "{}: shape [{}, {}, {}, {}]; the plan expects {} = [{}, {}, {}, {}]", name, t.shape[0], t.shape[1], t.shape[2],
               t.shape[3], heads_first ? "[B,H,N,D]" : "[B,N,H,D]", shape[0], shape[1], shape[2], shape[3]);
  SLA2_CHECK(t.strides[3] == 1, SLA2_E_ARGUMENT, "{}: stride of the last axis is {}; expected 1: make the channels contiguous",
             name, t.strides[3]);
  const DType dtype = tensor_dtype(t);
  SLA2_CHECK(dtype == DType::kF32 || dtype == DType::kBF16 || dtype == DType::kF16, SLA2_E_UNSUPPORTED,
             "{}: element type code {} with {} bits; expected fp32, fp16 or bf16", name, t.dtype_code, t.dtype_bits);
  return {t, dtype, t.strides[0], t.strides[heads_first ? 1 : 2], t.strides[heads_first ? 2 : 1]};
}

/// A contiguous tensor of the shape and of elements of `code` with `bits`.
sla2_tensor read_array(const sla2_tensor* source, const char* name, std::initializer_list<int64_t> shape, const Where& where) {
  const sla2_tensor t = read_tensor(source, name, where);
  SLA2_CHECK(t.ndim == static_cast<int32_t>(shape.size()), SLA2_E_ARGUMENT, "{}: {} axes; expected {}", name, t.ndim,
             shape.size());
  int64_t stride = 1;
  for (int axis = t.ndim - 1; axis >= 0; --axis) {
    const int64_t expected = shape.begin()[axis];
    SLA2_CHECK(t.shape[axis] == expected, SLA2_E_ARGUMENT, "{}: axis {} has {} elements; the plan expects {}", name, axis,
               t.shape[axis], expected);
    SLA2_CHECK(t.shape[axis] == 1 || t.strides[axis] == stride, SLA2_E_ARGUMENT,
               "{}: stride of axis {} is {}; expected {}: make it contiguous", name, axis, t.strides[axis], stride);
    stride *= t.shape[axis];
  }
  return t;
}

sla2_tensor read_float_array(const sla2_tensor* source, const char* name, std::initializer_list<int64_t> shape,
                             const Where& where) {
  const sla2_tensor t = read_array(source, name, shape, where);
  SLA2_CHECK(tensor_dtype(t) == DType::kF32, SLA2_E_UNSUPPORTED, "{}: element type code {} with {} bits; expected fp32", name,
             t.dtype_code, t.dtype_bits);
  return t;
}

ByteRange bytes_at(const void* data, int64_t bytes) {
  const auto at = reinterpret_cast<uintptr_t>(data);
  return {at, at + static_cast<uintptr_t>(bytes)};
}

}  // namespace

ThreadScope::ThreadScope(const sla2_exec* exec, const sla2_attention& plan) : ThreadScope(read_exec(exec, plan.where)) {}

void Memory::add(const char* name, ByteRange range, bool written) {
  SLA2_CHECK(count_ < kMost, SLA2_E_INTERNAL, "a call with more than {} arrays", kMost);
  entries_[count_++] = {name, range, written};
}

void Memory::check_apart() const {
  for (size_t i = count_; i-- > 0;)  // the workspace came last and is named first
    for (size_t j = 0; j < count_; ++j)
      SLA2_CHECK(i == j || !entries_[i].written || !entries_[i].range.meets(entries_[j].range), SLA2_E_ARGUMENT,
                 "{} overlaps {} in memory; give it memory of its own", entries_[i].name, entries_[j].name);
}

void check_workspace(const void* workspace, uint64_t bytes, uint64_t needed, const char* ask, Memory& memory) {
  const auto at = reinterpret_cast<uintptr_t>(workspace);
  SLA2_CHECK(workspace != nullptr && at % kWorkspaceAlignment == 0, SLA2_E_ARGUMENT,
             "workspace {} is NULL or not aligned to {} bytes", workspace, kWorkspaceAlignment);
  SLA2_CHECK(bytes >= needed, SLA2_E_ARGUMENT, "workspace has {} bytes; this plan needs {}: ask {}()", bytes, needed, ask);
  memory.writes("workspace", {at, at + needed});
}

attention::Operand read_operand(const sla2_tensor* source, const char* name, const sla2_attention& plan, int64_t heads,
                                int64_t tokens, Memory& memory) {
  const Argument a = read_argument(source, name, plan, heads, tokens);
  memory.reads(name, byte_range(a.tensor));
  return {a.tensor.data, a.dtype, a.stride_batch, a.stride_head, a.stride_token};
}

attention::MutableOperand write_operand(const sla2_tensor* source, const char* name, const sla2_attention& plan, int64_t heads,
                                        int64_t tokens, Memory& memory) {
  const Argument a = read_argument(source, name, plan, heads, tokens);
  SLA2_CHECK(elements_are_distinct(a.tensor), SLA2_E_ARGUMENT, "{}: strides {}, {}, {} make elements share memory", name,
             a.tensor.strides[0], a.tensor.strides[1], a.tensor.strides[2]);
  memory.writes(name, byte_range(a.tensor));
  return {a.tensor.data, a.dtype, a.stride_batch, a.stride_head, a.stride_token};
}

const float* read_floats(const sla2_tensor* source, const char* name, std::initializer_list<int64_t> shape, Memory& memory) {
  if (source == nullptr) return nullptr;
  const sla2_tensor t = read_float_array(source, name, shape, memory.where());
  memory.reads(name, byte_range(t));
  return static_cast<const float*>(t.data);
}

float* write_floats(const sla2_tensor* source, const char* name, std::initializer_list<int64_t> shape, Memory& memory) {
  if (source == nullptr) return nullptr;
  const sla2_tensor t = read_float_array(source, name, shape, memory.where());
  memory.writes(name, byte_range(t));
  return static_cast<float*>(t.data);
}

const uint8_t* read_bytes(const sla2_tensor* source, const char* name, std::initializer_list<int64_t> shape, Memory& memory) {
  if (source == nullptr) return nullptr;
  const sla2_tensor t = read_array(source, name, shape, memory.where());
  const bool is_byte = (t.dtype_code == SLA2_DTYPE_UINT || t.dtype_code == SLA2_DTYPE_BOOL) && t.dtype_bits == 8;
  SLA2_CHECK(is_byte, SLA2_E_UNSUPPORTED, "{}: element type code {} with {} bits; expected uint8 or bool", name, t.dtype_code,
             t.dtype_bits);
  memory.reads(name, byte_range(t));
  return static_cast<const uint8_t*>(t.data);
}

attention::BlockList read_list(const sla2_block_list* source, const char* name, const sla2_attention& plan, bool written,
                               Memory& memory) {
  const sla2_block_list list = read_struct(source, sla2_block_list{}, "sla2_block_list");
  check_reserved(list.reserved, "sla2_block_list");
  const attention::Config& c = plan.plan->config();
  const int64_t rows = c.batch * c.heads * plan.plan->query_blocks(), least = written ? plan.plan->max_kept() : 1;
  SLA2_CHECK(list.count != nullptr && (list.index != nullptr || least == 0), SLA2_E_ARGUMENT, "{}: index or count is NULL", name);
  SLA2_CHECK(list.capacity >= least && list.capacity <= std::max<int64_t>(plan.plan->key_blocks(), 1), SLA2_E_ARGUMENT,
             "{}: capacity is {}; expected {} to {}: ask sla2_attention_blocks()", name, list.capacity, least,
             plan.plan->key_blocks());
  const ByteRange index = bytes_at(list.index, rows * list.capacity * static_cast<int64_t>(sizeof(int32_t)));
  const ByteRange count = bytes_at(list.count, rows * static_cast<int64_t>(sizeof(int32_t)));
  if (written) {
    memory.writes(name, index);
    memory.writes(name, count);
  } else {
    memory.reads(name, index);
    memory.reads(name, count);
  }
  return {list.index, list.count, list.capacity};
}

Parameters read_parameters(const sla2_attention_params* source, const sla2_attention& plan, Memory& memory) {
  Parameters result;
  if (source == nullptr) return result;
  const sla2_attention_params p = read_struct(source, sla2_attention_params{}, "sla2_attention_params");
  check_reserved(p.reserved, "sla2_attention_params");
  const attention::Config& c = plan.plan->config();
  const int64_t dim = c.head_dim, query_blocks = plan.plan->query_blocks();
  attention::Parameters& learned = result.learned;
  const sla2_tensor* const any = p.router_q != nullptr ? p.router_q : p.router_k;
  if (any != nullptr) learned.router_heads = read_tensor(any, "router_q or router_k", plan.where).shape[0] == 1 ? 1 : c.heads;
  learned.router_q = read_floats(p.router_q, "router_q", {learned.router_heads, dim, dim}, memory);
  learned.router_k = read_floats(p.router_k, "router_k", {learned.router_heads, dim, dim}, memory);
  switch (c.mix) {
    case attention::Mix::kHeadScalar: learned.mix = read_floats(p.mix, "mix", {c.heads}, memory); break;
    case attention::Mix::kBlock: learned.mix = read_floats(p.mix, "mix", {c.heads, query_blocks}, memory); break;
    default: learned.mix = read_floats(p.mix, "mix", {c.heads, 2}, memory);
  }
  learned.proj = read_floats(p.proj, "proj", {dim, dim}, memory);
  learned.proj_bias = read_floats(p.proj_bias, "proj_bias", {dim}, memory);
  if (p.gate != nullptr) learned.gate = read_operand(p.gate, "gate", plan, c.heads, c.query_tokens, memory);
  result.key_bias = read_floats(p.key_bias, "key_bias", {c.key_tokens}, memory);
  result.given_mask = read_bytes(p.given_mask, "given_mask", {c.batch, c.heads, query_blocks, plan.plan->key_blocks()}, memory);
  result.has_given = p.given != nullptr;
  if (result.has_given) result.given = read_list(p.given, "given", plan, false, memory);
  return result;
}

Inputs read_inputs(const sla2_qkv* source, const sla2_attention& plan, bool route_only, Memory& memory) {
  const sla2_qkv qkv = read_struct(source, sla2_qkv{}, "sla2_qkv");
  check_reserved(qkv.reserved, "sla2_qkv");
  const attention::Config& c = plan.plan->config();
  Inputs in;
  in.q = read_operand(qkv.q, "q", plan, c.heads, c.query_tokens, memory);
  in.k = read_operand(qkv.k, "k", plan, c.kv_heads, c.key_tokens, memory);
  if (!route_only) in.v = read_operand(qkv.v, "v", plan, c.kv_heads, c.key_tokens, memory);
  return in;
}

void check_reserved(uint32_t value, const char* name) {
  SLA2_CHECK(value == 0, SLA2_E_VERSION, "{}: `reserved` is {}; expected 0", name, value);
}

}  // namespace sla2::api
