// SPDX-License-Identifier: Apache-2.0
// The plan: heads in groups; per group, prepare once, then every (head, query block) is one task.
#include <algorithm>
#include <cmath>

#include "attention/backward.h"
#include "attention/forward.h"
#include "attention/request.h"

namespace sla2::attention {
namespace {

class CpuPlan final : public Plan {
 public:
  CpuPlan(const Config& config, Isa isa)
      : geometry_(make_geometry(config, isa)),
        ops_(kernels::attention_ops(isa)),
        slots_(std::max(physical_threads(), thread_count())),
        bytes_(Workspace(geometry_, slots_, nullptr).bytes()),
        backward_(geometry_, isa, slots_) {
    stats_.mode_used = geometry_.mode;
    stats_.bits_used = geometry_.int8 ? 8 : 16;
    stats_.products_used = geometry_.bf16 ? DType::kBF16 : DType::kF32;
    stats_.blocks_total = geometry_.heads * geometry_.query_blocks * geometry_.key_blocks;
    const int64_t kept = geometry_.routed ? geometry_.top_k : geometry_.mode == Mode::kFull ? geometry_.key_blocks : 0;
    count_kept(static_cast<double>(geometry_.heads * geometry_.query_blocks * kept));
  }

  [[nodiscard]] const Config& config() const noexcept override { return geometry_.config; }
  [[nodiscard]] uint64_t workspace_bytes() const noexcept override { return bytes_; }
  [[nodiscard]] const Stats& stats() const noexcept override { return stats_; }

  [[nodiscard]] int64_t query_blocks() const noexcept override { return geometry_.list_query_blocks; }
  [[nodiscard]] int64_t key_blocks() const noexcept override { return geometry_.list_key_blocks; }
  [[nodiscard]] int64_t max_kept() const noexcept override { return geometry_.max_kept; }
  [[nodiscard]] uint64_t backward_workspace_bytes() const noexcept override { return backward_.workspace_bytes(); }
  void route(const Forward& in, void* workspace) override {
    SLA2_CHECK(in.list != nullptr, SLA2_E_ARGUMENT, "attention: route has no list to write to");
    run(in, workspace, true);
  }
  void backward(const Backward& in, void* workspace) override {
    const ThreadCountScope limit(std::min(slots_, thread_count()));
    backward_.run(in, workspace);
  }

  using Plan::forward;
  void forward(const Forward& in, void* workspace) override { run(in, workspace, false); }

 private:
  void run(const Forward& in, void* workspace, bool route_only) {
    const Geometry& g = geometry_;
    check_request(g, in, workspace, route_only, false);
    if (in.list != nullptr && !g.routed) write_whole_list(g, *in.list);
    if (route_only && !g.routed) return;
    const Workspace space(g, slots_, static_cast<std::byte*>(workspace));
    const ThreadCountScope limit(std::min(slots_, thread_count()));
    Call call{g, ops_, space, in, route_only, 0, 0};
    for (int i = 0; i < slots_; ++i) space.clocks[i].reset(in.times != nullptr);
    prepare_call(call);
    for (int64_t first = 0; first < g.key_heads; first += g.group) {
      call.first_head = first;
      call.group = std::min(g.group, g.key_heads - first);
      prepare_group(call);
      parallel_for(call.group * g.heads_per_key * g.query_blocks, [&call](int64_t index, int worker) {
        const Geometry& geometry = call.geometry;
        const int64_t head = index / geometry.query_blocks, block = index % geometry.query_blocks;
        const Place place{call.first_head * geometry.heads_per_key + head, block, block * geometry.block_q,
                          geometry.query_rows(block)};
        run_query_block(call, head / geometry.heads_per_key, place, call.workspace.worker(worker));
      });
    }
    if (in.times != nullptr) *in.times = read_clocks(space);
    if (g.routed) count_kept(sum_over_blocks(space.kept));
    if (route_only) return;
    if (g.mode == Mode::kSla2)
      stats_.mean_linear_weight = sum_over_blocks(space.linear_weight) / static_cast<double>(g.heads * g.config.query_tokens);
    if (in.probe != nullptr) finish_probe(g, space, *in.probe);
  }

  [[nodiscard]] PartTimes read_clocks(const Workspace& space) const {
    PartTimes times;
    for (int part = 0; part < kParts; ++part)
      for (int i = 0; i < slots_; ++i) times.seconds[part] += space.clocks[i].spent.seconds[part] / thread_count();
    return times;
  }

  [[nodiscard]] double sum_over_blocks(const double* each) const {
    double sum = 0;
    for (int64_t i = 0; i < geometry_.heads * geometry_.query_blocks; ++i) sum += each[i];
    return sum;
  }

  void count_kept(double pairs) {
    stats_.blocks_kept = std::llround(pairs);
    stats_.achieved_sparsity = 1.0 - pairs / static_cast<double>(stats_.blocks_total);
  }

  Geometry geometry_;
  kernels::AttentionOps ops_;
  int slots_;
  uint64_t bytes_;
  BackwardPlan backward_;
  Stats stats_;
};

}  // namespace

std::unique_ptr<Plan> Plan::create(const Config& config) {
  Config runs = config;
  if (active_isa() == Isa::kScalar) {  // plain bytes and bf16 are definitions for tests: six and ten times slower than plain fp32
    if (runs.bits == 8) runs.bits = 16, runs.fp8_values = false;
    if (runs.products == DType::kBF16) runs.products = DType::kF32;
  }
  return create(runs, active_isa());
}
std::unique_ptr<Plan> Plan::create(const Config& config, Isa isa) {
  return std::make_unique<CpuPlan>(config, std::min(isa, active_isa()));
}

}  // namespace sla2::attention
