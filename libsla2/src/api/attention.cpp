// SPDX-License-Identifier: Apache-2.0
// C door of attention.h: every value from outside is checked here; the arithmetic is in attention/.
#include "attention/attention.h"

#include <sla2/attention.h>

#include <array>

#include "api/guard.h"
#include "api/struct_size.h"
#include "api/tensor_view.h"

namespace attention = sla2::attention;

struct sla2_attention {
  std::unique_ptr<attention::Plan> plan;
  int32_t layout;
};

namespace sla2::api {
namespace {

constexpr uintptr_t kWorkspaceAlignment = 64;  // promised by attention.h

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
  return config;
}

void check_choice(const char* name, int32_t value, int32_t first, int32_t last) {
  SLA2_CHECK(value >= first && value <= last, SLA2_E_ARGUMENT, "sla2_attention_config: {} is {}; expected {} or {}", name, value,
             first, last);
}

attention::Config to_config(const sla2_attention_config& c) {
  check_choice("mode", c.mode, SLA2_MODE_FULL, SLA2_MODE_SLA2);
  check_choice("layout", c.layout, SLA2_LAYOUT_BHND, SLA2_LAYOUT_BNHD);
  check_choice("mix", c.mix, SLA2_MIX_HEAD_AFFINE_LSE, SLA2_MIX_CONST);
  check_choice("smooth_k", c.smooth_k, 0, 1);
  SLA2_CHECK(c.reserved == 0, SLA2_E_VERSION, "sla2_attention_config: `reserved` is {}; expected 0", c.reserved);
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
  return config;
}

/// A tensor of the plan's shape in the plan's layout.
struct Argument {
  sla2_tensor tensor;
  DType dtype;
  int64_t stride_batch, stride_head, stride_token;
};

Argument read_argument(const sla2_tensor* source, const char* name, const sla2_attention& plan, int64_t tokens) {
  const attention::Config& c = plan.plan->config();
  const sla2_tensor t = read_cpu_tensor(source, name);
  const bool heads_first = plan.layout == SLA2_LAYOUT_BHND;
  const std::array<int64_t, 4> shape = heads_first ? std::array<int64_t, 4>{c.batch, c.heads, tokens, c.head_dim}
                                                   : std::array<int64_t, 4>{c.batch, tokens, c.heads, c.head_dim};
  SLA2_CHECK(t.ndim == 4, SLA2_E_ARGUMENT, "{}: {} axes; expected 4, {}", name, t.ndim, heads_first ? "[B,H,N,D]" : "[B,N,H,D]");
  for (int axis = 0; axis < 4; ++axis)
    SLA2_CHECK(t.shape[axis] == shape[static_cast<size_t>(axis)], SLA2_E_ARGUMENT,
               "{}: shape [{}, {}, {}, {}]; the plan expects {} = [{}, {}, {}, {}]", name, t.shape[0], t.shape[1], t.shape[2],
               t.shape[3], heads_first ? "[B,H,N,D]" : "[B,N,H,D]", shape[0], shape[1], shape[2], shape[3]);
  SLA2_CHECK(t.strides[3] == 1, SLA2_E_ARGUMENT, "{}: stride of the last axis is {}; expected 1: make the channels contiguous",
             name, t.strides[3]);
  const DType dtype = tensor_dtype(t);
  SLA2_CHECK(dtype != DType::kUnset, SLA2_E_UNSUPPORTED, "{}: element type code {} with {} bits; expected fp32, fp16 or bf16",
             name, t.dtype_code, t.dtype_bits);
  return {t, dtype, t.strides[0], t.strides[heads_first ? 1 : 2], t.strides[heads_first ? 2 : 1]};
}

void check_apart(const ByteRange& written, const char* written_name, const ByteRange& other, const char* other_name) {
  SLA2_CHECK(!written.meets(other), SLA2_E_ARGUMENT, "{} overlaps {} in memory; give it memory of its own", written_name,
             other_name);
}

/// Threads of this call; what the calling thread had comes back afterwards.
class ThreadScope {
 public:
  explicit ThreadScope(int count) : before_(thread_count()) { set_thread_count(count); }
  ~ThreadScope() { set_thread_count(before_); }
  ThreadScope(const ThreadScope&) = delete;
  ThreadScope& operator=(const ThreadScope&) = delete;

 private:
  int before_;
};

int read_threads(const sla2_exec* exec) {
  sla2_exec defaults{};
  defaults.device_type = SLA2_DEVICE_CPU;
  if (exec == nullptr) return defaults.threads;
  const sla2_exec e = read_struct(exec, defaults, "sla2_exec");
  SLA2_CHECK(e.device_type == SLA2_DEVICE_CPU && e.stream == nullptr, SLA2_E_UNSUPPORTED,
             "sla2_exec: device type {}; this build runs on the CPU: device_type {}, stream NULL", e.device_type,
             static_cast<int>(SLA2_DEVICE_CPU));
  SLA2_CHECK(e.threads >= 0, SLA2_E_ARGUMENT, "sla2_exec: threads is {}; expected 0 (all) or more", e.threads);
  return e.threads;
}

void forward(sla2_attention& handle, const sla2_exec* exec, const sla2_qkv* in, void* workspace, uint64_t workspace_bytes,
             const sla2_tensor* out_tensor) {
  const attention::Config& c = handle.plan->config();
  const int threads = read_threads(exec);
  const sla2_qkv qkv = read_struct(in, sla2_qkv{}, "sla2_qkv");
  SLA2_CHECK(qkv.reserved == 0, SLA2_E_VERSION, "sla2_qkv: `reserved` is {}; expected 0", qkv.reserved);
  const Argument q = read_argument(qkv.q, "q", handle, c.query_tokens);
  const Argument k = read_argument(qkv.k, "k", handle, c.key_tokens);
  const Argument v = read_argument(qkv.v, "v", handle, c.key_tokens);
  const Argument out = read_argument(out_tensor, "out", handle, c.query_tokens);
  SLA2_CHECK(out.dtype == q.dtype, SLA2_E_ARGUMENT, "out: element type {}; expected that of q, {}", dtype_name(out.dtype),
             dtype_name(q.dtype));
  SLA2_CHECK(elements_are_distinct(out.tensor), SLA2_E_ARGUMENT, "out: strides {}, {}, {} make elements share memory",
             out.tensor.strides[0], out.tensor.strides[1], out.tensor.strides[2]);

  const uint64_t needed = handle.plan->workspace_bytes();
  const auto at = reinterpret_cast<uintptr_t>(workspace);
  SLA2_CHECK(workspace != nullptr && at % kWorkspaceAlignment == 0, SLA2_E_ARGUMENT,
             "workspace {} is NULL or not aligned to {} bytes", workspace, kWorkspaceAlignment);
  SLA2_CHECK(workspace_bytes >= needed, SLA2_E_ARGUMENT,
             "workspace has {} bytes; this plan needs {}: ask sla2_attention_workspace_size()", workspace_bytes, needed);
  const ByteRange scratch{at, at + needed}, result = byte_range(out.tensor);
  check_apart(scratch, "workspace", result, "out");
  for (const auto& [argument, name] : {std::pair{&q, "q"}, std::pair{&k, "k"}, std::pair{&v, "v"}}) {
    check_apart(result, "out", byte_range(argument->tensor), name);
    check_apart(scratch, "workspace", byte_range(argument->tensor), name);
  }

  const auto operand = [](const Argument& a) {
    return attention::Operand{a.tensor.data, a.dtype, a.stride_batch, a.stride_head, a.stride_token};
  };
  const ThreadScope scope(threads);
  handle.plan->forward(operand(q), operand(k), operand(v), nullptr, workspace,
                       {out.tensor.data, out.dtype, out.stride_batch, out.stride_head, out.stride_token});
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
    auto handle = std::make_unique<sla2_attention>(sla2_attention{attention::Plan::create(api::to_config(c)), c.layout});
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

sla2_status sla2_qkv_init(sla2_qkv* qkv, uint32_t size) {
  return api::guard([&] {
    sla2_qkv defaults{};
    defaults.struct_size = sizeof defaults;
    api::init_struct(qkv, size, defaults, "sla2_qkv");
  });
}

sla2_status sla2_attention_forward(sla2_attention* plan, const sla2_exec* exec, const sla2_qkv* in, void* workspace,
                                   uint64_t workspace_bytes, sla2_tensor* out) {
  return api::guard(
      [&] { api::forward(api::required(plan, "sla2_attention_forward", "plan"), exec, in, workspace, workspace_bytes, out); });
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
    api::write_struct(stats, value, "sla2_attention_stats");
  });
}
