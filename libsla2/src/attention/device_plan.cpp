// SPDX-License-Identifier: Apache-2.0
// A plan whose tensors are in a GPU's memory: a call checks, then queues its kernels on the caller's stream and returns.
#include "attention/device_plan.h"

#include <cmath>
#include <optional>

#include "attention/device_backward.h"
#include "attention/request.h"
#include "device/device.h"

namespace sla2::attention {
namespace {

/// Pairs kept, as far as the configuration alone says.
int64_t planned_pairs(const Geometry& g) {
  if (!g.routed) return g.mode == Mode::kFull ? g.heads * g.query_blocks * g.key_blocks : 0;
  int64_t kept = 0;
  for (int64_t i = 0; i < g.query_blocks; ++i) {
    int64_t always = 0;
    if (g.protects() && !g.soft)
      for (int64_t j = 0; j < g.key_blocks; ++j) always += g.is_protected(i, j) ? 1 : 0;
    kept += std::max(g.top_k, always);
  }
  return g.heads * kept;
}

class DevicePlan final : public Plan {
 public:
  DevicePlan(const Config& config, device::Launcher& gpu) : gpu_(gpu), geometry_(make_geometry(config, Isa::kAvx512Bf16)) {
    const std::string no = device_refusal(config, gpu.architecture());
    SLA2_CHECK(no.empty(), SLA2_E_UNSUPPORTED, "{}", no);
    const Geometry& g = geometry_;
    shape_ = device_shape(g, gpu.architecture());
    bytes_ = std::max<uint64_t>(device_workspace(g, shape_, nullptr).bytes, 1);
    const char* const products = shape_.half_sums ? "fp8h" : shape_.fp8 ? "fp8" : shape_.int8 ? "int8" : "bf16";
    full_ = fmt::format("sla2_attend_{}_{}", products, shape_.width);
    attend_ = shape_.linear ? full_ + "_linear" : full_;
    attend_threads_ = shape_.threads;
    if (const std::optional<DeviceFamily> hopper = hopper_family(g, shape_, gpu.architecture())) {
      attend_ = hopper->attend, full_ = hopper->full, attend_threads_ = hopper->threads, shared_out_ = true;
      shape_.shared_bytes = hopper->shared_bytes, shape_.probe_bytes = hopper->probe_bytes;
    }
    prepare();
    backward_.emplace(gpu, g);
    stats_.mode_used = g.mode;
    stats_.bits_used = shape_.int8 || shape_.fp8 ? 8 : 16;
    stats_.products_used = DType::kBF16;
    stats_.blocks_total = g.heads * g.query_blocks * g.key_blocks;
    count_kept(planned_pairs(g));
    told_ = static_cast<cuda::Summary*>(gpu_.allocate_pinned(sizeof *told_));
    if (told_ != nullptr) *told_ = {static_cast<double>(stats_.blocks_kept), 0, {}};
  }

  ~DevicePlan() override {  // the driver frees pinned memory when nothing queued writes to it any more
    if (told_ != nullptr) gpu_.release_pinned(told_);
  }
  DevicePlan(const DevicePlan&) = delete;
  DevicePlan& operator=(const DevicePlan&) = delete;

  [[nodiscard]] const Config& config() const noexcept override { return geometry_.config; }
  [[nodiscard]] int64_t query_blocks() const noexcept override { return geometry_.list_query_blocks; }
  [[nodiscard]] int64_t key_blocks() const noexcept override { return geometry_.list_key_blocks; }
  [[nodiscard]] int64_t max_kept() const noexcept override { return geometry_.max_kept; }
  [[nodiscard]] uint64_t workspace_bytes() const noexcept override { return bytes_; }
  [[nodiscard]] uint64_t backward_workspace_bytes() const noexcept override { return backward_->workspace_bytes(); }
  /// Of the last call that the GPU has finished.
  [[nodiscard]] const Stats& stats() const noexcept override {
    const Geometry& g = geometry_;
    if (called_ && counts_by_data()) count_kept(std::llround(told_->kept_pairs));
    if (called_ && shares_)
      stats_.mean_linear_weight = told_->linear_share / static_cast<double>(g.heads * g.config.query_tokens);
    return stats_;
  }
  [[nodiscard]] bool on_device() const noexcept override { return true; }
  void backward(const Backward& in, void* workspace) override { backward_->run(in, workspace); }
  void route(const Forward& in, void* workspace) override {
    SLA2_CHECK(in.list != nullptr, SLA2_E_ARGUMENT, "attention: route has no list to write to");
    run(in, workspace, true);
  }
  using Plan::forward;
  void forward(const Forward& in, void* workspace) override { run(in, workspace, false); }

 private:
  [[nodiscard]] bool pools() const { return geometry_.centred() || shape_.fp8; }
  [[nodiscard]] const char* totals_name() const { return shape_.width == 64 ? "sla2_totals_64" : "sla2_totals_128"; }
  [[nodiscard]] uint32_t likeness_bytes() const { return static_cast<uint32_t>((geometry_.block_k + geometry_.dim) * 8); }
  [[nodiscard]] uint32_t pack_bytes() const {
    return cuda::pack_bytes(std::max(static_cast<int>(geometry_.block_k), cuda::kTileKeys), shape_.width);
  }

  void count_kept(int64_t pairs) const {
    stats_.blocks_kept = pairs;
    stats_.achieved_sparsity = 1.0 - static_cast<double>(pairs) / static_cast<double>(stats_.blocks_total);
  }
  [[nodiscard]] bool counts_by_data() const {
    const Router router = geometry_.config.router;
    return geometry_.routed && (router == Router::kVmoba || router == Router::kSparge || router == Router::kGiven);
  }

  void prepare() {
    if (pools())
      for (const char* const kernel : {"sla2_pool", "sla2_centre"}) gpu_.prepare(kernel, 0);
    if (shape_.likeness) gpu_.prepare("sla2_likeness", likeness_bytes());
    if (geometry_.routed) gpu_.prepare("sla2_route", shape_.route.bytes);
    gpu_.prepare("sla2_pack", pack_bytes());
    if (shape_.linear) {
      gpu_.prepare(totals_name(), cuda::stream_bytes(shape_.width));
      gpu_.prepare("sla2_sum_totals", 0);
    }
    gpu_.prepare(attend_.c_str(), shape_.shared_bytes);
    if (shape_.linear) gpu_.prepare(full_.c_str(), shape_.probe_bytes);
    gpu_.prepare("sla2_summary", kSummaryBytes);
    gpu_.prepare("sla2_list_all", 0);
  }

  void run(const Forward& in, void* workspace, bool route_only) {
    const Geometry& g = geometry_;
    check_request(g, in, workspace, route_only, true);
    SLA2_CHECK(in.probe == nullptr || (told_ != nullptr && g.mode != Mode::kLinearOnly), SLA2_E_UNSUPPORTED,
               "attention on CUDA: a probe in mode {}; {}: leave it out", static_cast<int>(g.mode),
               told_ == nullptr ? "this device has no memory that the host reads" : "linear_only packs no keys to compare with");
    const DeviceWorkspace w = device_workspace(g, shape_, static_cast<std::byte*>(workspace));
    const DeviceCall call{g, shape_, w, in, route_only};
    stream_ = in.stream;
    constexpr uint32_t kThreads = cuda::kPrepareThreads;
    const bool chooses = g.routed && !g.soft;
    if (in.list != nullptr && !chooses) {
      const cuda::ListAllParams all{in.list->index, in.list->count, in.list->capacity, static_cast<int32_t>(g.list_query_blocks),
                                    static_cast<int32_t>(g.mode == Mode::kLinearOnly ? 0 : g.list_key_blocks)};
      start("sla2_list_all", 1, g.heads, kThreads, 0, all);
    }
    if (route_only && !chooses) return;
    if (pools()) {
      start("sla2_pool", g.key_blocks, g.key_heads, kThreads, 0, pool_params(call));
      start("sla2_centre", 1, g.key_heads, kThreads, 0, centre_params(call));
    }
    if (shape_.likeness) start("sla2_likeness", g.key_blocks, g.key_heads, kThreads, likeness_bytes(), likeness_params(call));
    if (g.routed) start("sla2_route", g.query_blocks, g.heads, kThreads, shape_.route.bytes, route_params(call));
    if (route_only) return tell(call, 0);
    start("sla2_pack", g.key_blocks, g.key_heads, kThreads, pack_bytes(), pack_params(call));
    if (shape_.pooled) start("sla2_pack", shape_.mean_tiles, g.key_heads, kThreads, pack_bytes(), pack_means_params(call));
    if (shape_.linear) total(w);
    start_attend(attend_, g.query_blocks, shape_.shared_bytes, attend_params(call));
    if (in.probe == nullptr) return tell(call, 0);
    const int64_t probes = std::max<int64_t>(1, std::llround(in.probe->fraction * static_cast<double>(g.query_blocks)));
    start_attend(full_, probes, shape_.probe_bytes, probe_params(call, probes));
    tell(call, probes);
    gpu_.wait(stream_);
    const double* const sums = told_->probe;
    in.probe->blocks = g.heads * probes;
    in.probe->relative_l1 = sums[0] == 0 ? 0 : sums[0] / sums[1];
    in.probe->cosine = sums[0] == 0 ? 1 : sums[2] / std::sqrt(sums[3] * sums[4]);
  }

  /// What stats() and a probe will read.
  void tell(const DeviceCall& call, int64_t probes) {
    const bool shares = !call.route_only && geometry_.mode == Mode::kSla2;
    if (told_ == nullptr || !(shares || probes > 0 || counts_by_data())) return;
    start("sla2_summary", 1, 1, cuda::kPrepareThreads, kSummaryBytes, summary_params(call, probes, told_));
    called_ = true, shares_ = shares_ || shares;
  }

  template <typename Params>
  void start(const char* kernel, int64_t grid_x, int64_t grid_y, uint32_t threads, uint32_t shared, const Params& params) {
    gpu_.launch(
        {kernel, static_cast<uint32_t>(grid_x), static_cast<uint32_t>(grid_y), threads, shared, &params, sizeof params, stream_});
  }

  /// `blocks` of each head: a block of threads for each, or as many as run at once, which share them out.
  void start_attend(const std::string& kernel, int64_t blocks, uint32_t shared, const cuda::AttendParams& params) {
    if (!shared_out_) return start(kernel.c_str(), blocks, geometry_.heads, attend_threads_, shared, params);
    start(kernel.c_str(), std::min<int64_t>(params.turns, gpu_.multiprocessors()), 1, attend_threads_, shared, params);
  }

  void total(const DeviceWorkspace& w) {
    const Geometry& g = geometry_;
    const int64_t size = static_cast<int64_t>(shape_.width) * shape_.width, sum_threads = 256;
    const cuda::TotalsParams p{w.features, w.values, w.partial, shape_.key_tiles, shape_.tiles_per_part, shape_.parts};
    start(totals_name(), shape_.parts, g.key_heads, static_cast<uint32_t>(shape_.width / 16 * 32),
          cuda::stream_bytes(shape_.width), p);
    const cuda::SumTotalsParams s{w.partial,   w.z, w.state_total, w.z_total, shape_.parts, static_cast<int32_t>(g.key_blocks),
                                  shape_.width};
    start("sla2_sum_totals", size / sum_threads + 1, g.key_heads, sum_threads, 0, s);
  }

  static constexpr uint32_t kSummaryBytes = cuda::kPrepareThreads * sizeof(double);

  device::Launcher& gpu_;
  Geometry geometry_;
  DeviceShape shape_;
  std::optional<DeviceBackward> backward_;  ///< made when the configuration has been found to run
  std::string attend_, full_;               ///< the kernel that runs; without a linear branch, for probes
  uint32_t attend_threads_ = 0;
  uint64_t bytes_ = 0;
  void* stream_ = nullptr;
  cuda::Summary* told_ = nullptr;  ///< written by the GPU; null: the device has no such memory
  bool shared_out_ = false;        ///< the attention kernel's blocks of threads take query blocks in turn
  bool called_ = false, shares_ = false;
  mutable Stats stats_;
};

}  // namespace

std::unique_ptr<Plan> Plan::create(const Config& config, device::Launcher& gpu) {
  return std::make_unique<DevicePlan>(config, gpu);
}

}  // namespace sla2::attention
