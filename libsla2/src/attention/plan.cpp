// SPDX-License-Identifier: Apache-2.0
// The plan: heads in groups; per group, prepare once, then every (head, query block) is one task.
#include <algorithm>
#include <cmath>

#include "attention/backward.h"
#include "attention/forward.h"

namespace sla2::attention {
namespace {

/// At most `limit` threads for calls from this thread while it lives.
class ThreadLimit {
 public:
  explicit ThreadLimit(int limit) : before_(thread_count()), changed_(before_ > limit) {
    if (changed_) set_thread_count(limit);
  }
  ~ThreadLimit() {
    if (changed_) set_thread_count(before_);
  }
  ThreadLimit(const ThreadLimit&) = delete;
  ThreadLimit& operator=(const ThreadLimit&) = delete;

 private:
  int before_;
  bool changed_;
};

void check_dtype(const char* name, DType dtype) {
  SLA2_CHECK(dtype == DType::kF32 || dtype == DType::kBF16 || dtype == DType::kF16, SLA2_E_UNSUPPORTED,
             "attention: {} is {}; expected fp32, bf16 or fp16", name, dtype_name(dtype));
}

class CpuPlan final : public Plan {
 public:
  CpuPlan(const Config& config, Isa isa)
      : geometry_(make_geometry(config, isa)),
        ops_(kernels::attention_ops(isa)),
        slots_(std::max(physical_threads(), thread_count())),
        bytes_(Workspace(geometry_, slots_, nullptr).bytes()),
        backward_(config, isa, slots_) {
    const int64_t pairs = geometry_.heads * geometry_.query_blocks;
    stats_.mode_used = geometry_.mode;
    stats_.blocks_kept = pairs * geometry_.kept;
    stats_.blocks_total = pairs * geometry_.key_blocks;
    stats_.achieved_sparsity = 1.0 - static_cast<double>(geometry_.kept) / static_cast<double>(geometry_.key_blocks);
  }

  [[nodiscard]] const Config& config() const noexcept override { return geometry_.config; }
  [[nodiscard]] uint64_t workspace_bytes() const noexcept override { return bytes_; }
  [[nodiscard]] const Stats& stats() const noexcept override { return stats_; }

  [[nodiscard]] int64_t query_blocks() const noexcept override { return geometry_.query_blocks; }
  [[nodiscard]] int64_t key_blocks() const noexcept override { return geometry_.key_blocks; }
  [[nodiscard]] int64_t max_kept() const noexcept override { return geometry_.kept; }
  [[nodiscard]] uint64_t backward_workspace_bytes() const noexcept override { return backward_.workspace_bytes(); }
  void route(const Forward&, void*) override { fail(SLA2_E_UNSUPPORTED, "attention: route alone is not built yet"); }
  void backward(const Backward& in, void* workspace) override {
    const ThreadLimit limit(slots_);
    backward_.run(in, workspace);
  }

  using Plan::forward;
  void forward(const Forward& in, void* workspace) override {
    const auto& [q, k, v, out, key_bias, parameters, given, lse, list, probe] = in;
    SLA2_CHECK(given == nullptr && lse == nullptr && list == nullptr && probe == nullptr, SLA2_E_UNSUPPORTED,
               "attention: lists, log-sum-exps and the probe are not built yet");
    check_dtype("q", q.dtype);
    check_dtype("k", k.dtype);
    check_dtype("v", v.dtype);
    check_dtype("out", out.dtype);
    SLA2_CHECK(key_bias == nullptr || geometry_.config.mode == Mode::kFull, SLA2_E_UNSUPPORTED,
               "attention: a key bias was given in sla2 mode; only full mode takes one");
    SLA2_CHECK(q.data != nullptr && k.data != nullptr && v.data != nullptr && out.data != nullptr && workspace != nullptr,
               SLA2_E_ARGUMENT, "attention: a data or workspace pointer is null");
    const Workspace space(geometry_, slots_, static_cast<std::byte*>(workspace));
    const ThreadLimit limit(slots_);
    Call call{geometry_, ops_, space, q, k, v, out, key_bias, 0, 0};
    prepare_bias(call);
    for (int64_t first = 0; first < geometry_.heads; first += geometry_.group) {
      call.first_head = first;
      call.group = std::min(geometry_.group, geometry_.heads - first);
      prepare_group(call);
      parallel_for(call.group * geometry_.query_blocks, [&call](int64_t index, int worker) {
        const int64_t blocks = call.geometry.query_blocks;
        run_query_block(call, index / blocks, index % blocks, call.workspace.worker(worker));
      });
    }
    if (geometry_.mode == Mode::kSla2) stats_.mean_linear_weight = mean_linear_weight(space);
  }

 private:
  [[nodiscard]] double mean_linear_weight(const Workspace& space) const {
    double sum = 0;
    for (int64_t i = 0; i < geometry_.heads * geometry_.query_blocks; ++i) sum += space.linear_weight[i];
    return sum / static_cast<double>(geometry_.heads * geometry_.config.query_tokens);
  }

  Geometry geometry_;
  kernels::AttentionOps ops_;
  int slots_;
  uint64_t bytes_;
  BackwardPlan backward_;
  Stats stats_;
};

}  // namespace

std::unique_ptr<Plan> Plan::create(const Config& config) { return create(config, active_isa()); }
std::unique_ptr<Plan> Plan::create(const Config& config, Isa isa) {
  return std::make_unique<CpuPlan>(config, std::min(isa, active_isa()));
}

}  // namespace sla2::attention
