// SPDX-License-Identifier: Apache-2.0
#include "attention.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>
#define SLA2_UNSTABLE
#include <sla2/unstable.h>

#include <array>
#include <deque>
#include <mutex>
#include <new>
#include <utility>

#include "errors.h"
#include "tensor.h"

namespace py = pybind11;

namespace sla2::python {
namespace {

constexpr std::align_val_t kAlignment{64};  // what attention.h asks of a workspace

/// Scratch that a plan keeps between calls.
class Scratch {
 public:
  Scratch() = default;
  ~Scratch() { ::operator delete(data_, kAlignment); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  void* at_least(uint64_t bytes) {
    if (bytes > bytes_) {
      ::operator delete(data_, kAlignment);
      data_ = nullptr;
      bytes_ = 0;
      data_ = ::operator new(static_cast<size_t>(bytes), kAlignment);
      bytes_ = bytes;
    }
    return data_;
  }

 private:
  void* data_ = nullptr;
  uint64_t bytes_ = 0;
};

/// Tensors named in a dict, set into the members of a C struct; they live as long as this object.
class Members {
 public:
  explicit Members(const py::dict& values) : values_(values) {}
  template <typename Target>
  void set(const char* name, Target& target, bool written) {
    if (!values_.contains(name) || values_[name].is_none()) return;
    target = tensors_.emplace_back(values_[name], name, written).view();
  }
  [[nodiscard]] bool has(const char* name) const { return values_.contains(name) && !values_[name].is_none(); }
  [[nodiscard]] py::object get(const char* name) const { return values_[name]; }

 private:
  py::dict values_;
  std::deque<Tensor> tensors_;
};

sla2_attention_config read_config(const py::dict& values) {
  sla2_attention_config c;
  require(sla2_attention_config_init(&c, sizeof c));
  const auto set = [&](const char* name, auto& target) {
    if (values.contains(name)) target = values[name].cast<std::decay_t<decltype(target)>>();
  };
#define SLA2_FIELD(name) set(#name, c.name)
  SLA2_FIELD(mode), SLA2_FIELD(layout), SLA2_FIELD(mix), SLA2_FIELD(batch), SLA2_FIELD(heads), SLA2_FIELD(query_tokens);
  SLA2_FIELD(key_tokens), SLA2_FIELD(head_dim), SLA2_FIELD(sparsity), SLA2_FIELD(softmax_scale), SLA2_FIELD(block_q);
  SLA2_FIELD(block_k), SLA2_FIELD(smooth_k), SLA2_FIELD(mix_scale), SLA2_FIELD(mix_bias), SLA2_FIELD(router), SLA2_FIELD(scope);
  SLA2_FIELD(rule), SLA2_FIELD(products), SLA2_FIELD(bits), SLA2_FIELD(fp8_values), SLA2_FIELD(kv_heads), SLA2_FIELD(negligible);
  SLA2_FIELD(tau), SLA2_FIELD(top_p), SLA2_FIELD(theta), SLA2_FIELD(protect_first), SLA2_FIELD(protect_last);
  SLA2_FIELD(protect_near), SLA2_FIELD(min_tokens);
#undef SLA2_FIELD
  return c;
}

/// Where a call on a GPU runs: workspace in its memory, owned by the caller, and the stream; zeros on the CPU.
using Place = std::pair<uintptr_t, uintptr_t>;

/// A plan with its scratch. Calls from several threads wait for each other. A plan of a GPU ("device_id" in the configuration)
/// has no scratch of its own: each call brings it, from the allocator that its tensors come from.
class Plan {
 public:
  explicit Plan(const py::dict& config) {
    const sla2_attention_config c = read_config(config);
    if (config.contains("device_id")) {
      device_id_ = config["device_id"].cast<int32_t>();
      require(sla2_attention_create_on(&c, SLA2_DEVICE_CUDA, device_id_, &plan_));
    } else {
      require(sla2_attention_create(&c, &plan_));
    }
  }
  ~Plan() { sla2_attention_destroy(plan_); }
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;

  [[nodiscard]] py::tuple blocks() const {
    int64_t queries = 0, keys = 0, most = 0;
    require(sla2_attention_blocks(plan_, &queries, &keys, &most));
    return py::make_tuple(queries, keys, most);
  }
  [[nodiscard]] uint64_t workspace_bytes() const {
    uint64_t bytes = 0;
    require(sla2_attention_workspace_size(plan_, &bytes));
    return bytes;
  }
  [[nodiscard]] uint64_t backward_workspace_bytes() const {
    uint64_t bytes = 0;
    require(sla2_attention_backward_workspace_size(plan_, &bytes));
    return bytes;
  }

  /// tensors: q, k, v and learned ones; outputs: out, lse, index with count. @return facts about the call
  py::dict run(const py::dict& tensors, const py::dict& outputs, double probe_fraction, int threads, Place at) {
    Inputs in(tensors);
    Members to(outputs);
    sla2_attention_outputs o;
    require(sla2_attention_outputs_init(&o, sizeof o));
    to.set("out", o.out, true);
    to.set("lse", o.lse, true);
    List list(to, true);
    o.list = list.get();
    sla2_attention_probe probe;
    require(sla2_attention_probe_init(&probe, sizeof probe));
    probe.fraction = probe_fraction;
    if (probe_fraction > 0) o.probe = &probe;
    const uint64_t bytes = workspace_bytes();
    sla2_attention_stats stats;
    require(sla2_attention_stats_init(&stats, sizeof stats));
    call(
        [&](void* scratch, const sla2_exec* exec) {
          const sla2_status status = sla2_attention_run(plan_, exec, &in.qkv, &in.params, scratch, bytes, &o);
          return status != SLA2_OK ? status : sla2_attention_get_stats(plan_, &stats);
        },
        bytes, threads, at);
    py::dict facts;
    facts["mode_used"] = stats.mode_used;
    facts["sparsity"] = stats.achieved_sparsity;
    facts["blocks_kept"] = stats.blocks_kept;
    facts["blocks_total"] = stats.blocks_total;
    facts["mean_linear_weight"] = stats.mean_linear_weight;
    facts["bits_used"] = stats.bits_used;
    facts["products_used"] = stats.products_used;
    if (probe_fraction > 0) {
      facts["probe_relative_l1"] = probe.relative_l1;
      facts["probe_cosine"] = probe.cosine;
      facts["probe_blocks"] = probe.blocks;
    }
    return facts;
  }

  void route(const py::dict& tensors, const py::dict& outputs, int threads, Place at) {
    Inputs in(tensors);
    Members to(outputs);
    List list(to, true);
    const uint64_t bytes = workspace_bytes();
    call(
        [&](void* scratch, const sla2_exec* exec) {
          return sla2_attention_route(plan_, exec, &in.qkv, &in.params, scratch, bytes, list.get());
        },
        bytes, threads, at);
  }

  /// saved: d_out, out, lse, index with count; gradients: one array for each that is wanted.
  void backward(const py::dict& tensors, const py::dict& saved, const py::dict& gradients, int threads, Place at) {
    Inputs in(tensors);
    Members from(saved), to(gradients);
    sla2_attention_saved s;
    require(sla2_attention_saved_init(&s, sizeof s));
    from.set("d_out", s.d_out, false);
    from.set("out", s.out, false);
    from.set("lse", s.lse, false);
    List list(from, false);
    s.list = list.get();
    sla2_attention_grads g;
    require(sla2_attention_grads_init(&g, sizeof g));
    to.set("q", g.q, true), to.set("k", g.k, true), to.set("v", g.v, true), to.set("gate", g.gate, true);
    to.set("router_q", g.router_q, true), to.set("router_k", g.router_k, true), to.set("mix", g.mix, true);
    to.set("proj", g.proj, true), to.set("proj_bias", g.proj_bias, true);
    const uint64_t bytes = backward_workspace_bytes();
    call([&](void* scratch,
             const sla2_exec* exec) { return sla2_attention_backward(plan_, exec, &in.qkv, &in.params, &s, scratch, bytes, &g); },
         bytes, threads, at);
  }

 private:
  /// index [B,H,T_m,capacity] and count [B,H,T_m], int32 and contiguous, where the plan is.
  class List {
   public:
    List(Members& values, bool written) {
      if (!values.has("index")) return;
      sla2_tensor *index = nullptr, *count = nullptr;
      values.set("index", index, written);
      values.set("count", count, written);
      require(sla2_block_list_init(&list_, sizeof list_));
      list_.index = numbers(*index, "index");
      list_.count = numbers(*count, "count");
      list_.capacity = index->shape[index->ndim - 1];
      if (size(*index) != size(*count) * list_.capacity)
        throw py::value_error("index and count: shapes do not belong together; expected [B,H,T_m,capacity] and [B,H,T_m]");
      present_ = true;
    }
    [[nodiscard]] sla2_block_list* get() { return present_ ? &list_ : nullptr; }

   private:
    static int64_t size(const sla2_tensor& tensor) {
      int64_t count = 1;
      for (int32_t axis = 0; axis < tensor.ndim; ++axis) count *= tensor.shape[axis];
      return count;
    }
    static int32_t* numbers(const sla2_tensor& tensor, const char* name) {
      bool fits = tensor.dtype_code == SLA2_DTYPE_INT && tensor.dtype_bits == 32;
      int64_t step = 1;
      for (int32_t axis = tensor.ndim - 1; axis >= 0; --axis) {
        fits = fits && (tensor.shape[axis] <= 1 || tensor.strides[axis] == step);
        step *= tensor.shape[axis];
      }
      if (!fits) throw py::type_error(std::string(name) + ": expected a contiguous array of int32");
      return static_cast<int32_t*>(tensor.data);
    }
    sla2_block_list list_{};
    bool present_ = false;
  };

  struct Inputs {
    explicit Inputs(const py::dict& tensors) : members(tensors), given(members, false) {
      require(sla2_qkv_init(&qkv, sizeof qkv));
      members.set("q", qkv.q, false), members.set("k", qkv.k, false), members.set("v", qkv.v, false);
      require(sla2_attention_params_init(&params, sizeof params));
      members.set("router_q", params.router_q, false), members.set("router_k", params.router_k, false);
      members.set("mix", params.mix, false), members.set("proj", params.proj, false),
          members.set("proj_bias", params.proj_bias, false);
      members.set("gate", params.gate, false), members.set("key_bias", params.key_bias, false);
      members.set("mask", params.given_mask, false);
      params.given = given.get();
    }
    Members members;
    List given;
    sla2_qkv qkv{};
    sla2_attention_params params{};
  };

  template <typename Work>
  void call(const Work& work, uint64_t bytes, int threads, Place at) {
    sla2_exec exec;
    require(sla2_exec_init(&exec, sizeof exec));
    exec.threads = threads;
    const bool gpu = device_id_ >= 0;
    if (gpu) {
      exec.device_type = SLA2_DEVICE_CUDA;
      exec.device_id = device_id_;
      exec.stream = reinterpret_cast<void*>(at.second);
    }
    sla2_status status = SLA2_OK;
    std::string text;
    {
      const py::gil_scoped_release release;
      const std::lock_guard lock(mutex_);
      status = work(gpu ? reinterpret_cast<void*>(at.first) : scratch_.at_least(bytes), &exec);
      if (status != SLA2_OK) text = sla2_last_error();
    }
    if (status != SLA2_OK) raise(status, text);
  }

  sla2_attention* plan_ = nullptr;
  int32_t device_id_ = -1;  ///< -1: the CPU
  std::mutex mutex_;
  Scratch scratch_;
};

py::array token_order(int32_t kind, const std::array<int64_t, 3>& box, const std::array<int64_t, 3>& tile) {
  // Sizes are checked by the library before anything is written; a wrong one must not decide an allocation here.
  const bool sane = box[0] > 0 && box[1] > 0 && box[2] > 0 && box[0] <= INT32_MAX && box[1] <= INT32_MAX / box[0] &&
                    box[2] <= INT32_MAX / (box[0] * box[1]);
  py::array_t<int32_t> order(sane ? box[0] * box[1] * box[2] : 1);
  require(sla2_token_order(kind, box[0], box[1], box[2], tile[0], tile[1], tile[2], order.mutable_data()));
  return order;
}

}  // namespace

void define_attention(py::module_& m) {
  py::class_<Plan>(m, "Attention")
      .def(py::init<const py::dict&>(), py::arg("config"))
      .def_property_readonly("blocks", &Plan::blocks)
      .def_property_readonly("workspace_bytes", &Plan::workspace_bytes)
      .def_property_readonly("backward_workspace_bytes", &Plan::backward_workspace_bytes)
      .def("run", &Plan::run, py::arg("tensors"), py::arg("outputs"), py::arg("probe_fraction"), py::arg("threads"),
           py::arg("at") = Place())
      .def("route", &Plan::route, py::arg("tensors"), py::arg("outputs"), py::arg("threads"), py::arg("at") = Place())
      .def("backward", &Plan::backward, py::arg("tensors"), py::arg("saved"), py::arg("gradients"), py::arg("threads"),
           py::arg("at") = Place());
  m.def("token_order", &token_order, py::arg("kind"), py::arg("box"), py::arg("tile"));
}

}  // namespace sla2::python
