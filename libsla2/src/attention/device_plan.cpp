// SPDX-License-Identifier: Apache-2.0
// A plan whose tensors are in a GPU's memory: a call checks, then queues its kernels on the caller's stream and returns.
#include "attention/device_plan.h"

#include <cmath>

#include "attention/request.h"
#include "device/device.h"

namespace sla2::attention {
namespace {

int32_t element_of(DType dtype) {
  return dtype == DType::kBF16 ? cuda::kElementBf16 : dtype == DType::kF16 ? cuda::kElementF16 : cuda::kElementF32;
}

/// A view for kernels. Pairs of channels are read at once where every row starts at an even element of aligned memory.
template <typename Operand>
cuda::Rows rows(const Operand& x, int64_t heads) {
  const auto size = dtype_size(x.dtype);
  const auto even = [](int64_t stride) { return stride % 2 == 0; };
  const bool pairs = reinterpret_cast<uintptr_t>(x.data) % (2 * size) == 0 && even(x.stride_batch) && even(x.stride_head) &&
                     even(x.stride_token);
  return {const_cast<void*>(static_cast<const void*>(x.data)),
          x.stride_batch,
          x.stride_head,
          x.stride_token,
          static_cast<int32_t>(heads),
          element_of(x.dtype),
          pairs ? 1 : 0};
}

class DevicePlan final : public Plan {
 public:
  DevicePlan(const Config& config, device::Launcher& gpu) : gpu_(gpu), geometry_(make_geometry(config, Isa::kAvx512Bf16)) {
    const std::string no = device_refusal(config, gpu.architecture());
    SLA2_CHECK(no.empty(), SLA2_E_UNSUPPORTED, "{}", no);
    const Geometry& g = geometry_;
    shape_ = device_shape(g);
    bytes_ = std::max<uint64_t>(device_workspace(g, shape_, nullptr).bytes, 1);
    const char* const products = shape_.fp8 ? "fp8" : shape_.int8 ? "int8" : "bf16";
    attend_ = fmt::format("sla2_attend_{}_{}{}", products, shape_.width, shape_.linear ? "_linear" : "");
    const cuda::AttendMap map = cuda::attend_map(shape_.width, shape_.products, shape_.linear);
    // With as many warps as the state has stretches of 16 rows, its tiles may pass where it will stand.
    const bool at_once = static_cast<int>(shape_.threads) / 32 >= shape_.width / 16;
    stream_at_ = at_once ? map.state : map.keys;
    shared_bytes_ = shape_.linear ? std::max(map.bytes, stream_at_ + cuda::stream_bytes(shape_.width)) : map.bytes;
    if (const std::optional<DeviceFamily> hopper = hopper_family(g, shape_, gpu.architecture()))
      attend_ = hopper->kernel, shape_.threads = hopper->threads, shared_bytes_ = hopper->shared_bytes;
    prepare();
    stats_.mode_used = g.mode;
    stats_.blocks_total = g.heads * g.query_blocks * g.key_blocks;
    stats_.blocks_kept = g.heads * g.query_blocks * (g.routed ? g.top_k : g.mode == Mode::kFull ? g.key_blocks : 0);
    stats_.achieved_sparsity = 1.0 - static_cast<double>(stats_.blocks_kept) / static_cast<double>(stats_.blocks_total);
  }

  [[nodiscard]] const Config& config() const noexcept override { return geometry_.config; }
  [[nodiscard]] int64_t query_blocks() const noexcept override { return geometry_.list_query_blocks; }
  [[nodiscard]] int64_t key_blocks() const noexcept override { return geometry_.list_key_blocks; }
  [[nodiscard]] int64_t max_kept() const noexcept override { return geometry_.max_kept; }
  [[nodiscard]] uint64_t workspace_bytes() const noexcept override { return bytes_; }
  [[nodiscard]] uint64_t backward_workspace_bytes() const noexcept override { return 0; }
  [[nodiscard]] const Stats& stats() const noexcept override { return stats_; }
  [[nodiscard]] bool on_device() const noexcept override { return true; }
  void backward(const Backward&, void*) override {
    fail(SLA2_E_UNSUPPORTED, "attention on CUDA: gradients are not built: run backward on the CPU");
  }
  void route(const Forward& in, void* workspace) override {
    SLA2_CHECK(in.list != nullptr, SLA2_E_ARGUMENT, "attention: route has no list to write to");
    run(in, workspace, true);
  }
  using Plan::forward;
  void forward(const Forward& in, void* workspace) override { run(in, workspace, false); }

 private:
  void prepare() {
    const Geometry& g = geometry_;
    if (g.centred() || shape_.fp8)
      for (const char* const kernel : {"sla2_pool", "sla2_centre"}) gpu_.prepare(kernel, 0);
    if (g.routed) gpu_.prepare("sla2_route", cuda::route_bytes(key_blocks32(), dim()));
    gpu_.prepare("sla2_pack", cuda::pack_bytes(block_k(), shape_.width));
    if (shape_.linear) {
      gpu_.prepare(totals_name(), cuda::stream_bytes(shape_.width));
      gpu_.prepare("sla2_sum_totals", 0);
    }
    gpu_.prepare(attend_.c_str(), shared_bytes_);
  }
  [[nodiscard]] const char* totals_name() const { return shape_.width == 64 ? "sla2_totals_64" : "sla2_totals_128"; }

  void run(const Forward& in, void* workspace, bool route_only) {
    const Geometry& g = geometry_;
    check_request(g, in, workspace, route_only);
    SLA2_CHECK(in.probe == nullptr, SLA2_E_UNSUPPORTED, "attention on CUDA: the probe is not built: leave it out");
    SLA2_CHECK(in.list == nullptr || g.routed, SLA2_E_UNSUPPORTED,
               "attention on CUDA: a list is written where a router runs; mode {} keeps all blocks or none",
               static_cast<int>(g.mode));
    const DeviceWorkspace w = device_workspace(g, shape_, static_cast<std::byte*>(workspace));
    stream_ = in.stream;
    if (g.centred() || shape_.fp8) pool(in, w);
    if (g.routed) route_blocks(in, w);
    if (route_only) return;
    pack(in, w);
    if (shape_.linear) total(w);
    attend(in, w);
  }

  template <typename Params>
  void start(const char* kernel, int64_t grid_x, int64_t grid_y, uint32_t threads, uint32_t shared, const Params& params) {
    gpu_.launch(
        {kernel, static_cast<uint32_t>(grid_x), static_cast<uint32_t>(grid_y), threads, shared, &params, sizeof params, stream_});
  }

  [[nodiscard]] int32_t dim() const { return static_cast<int32_t>(geometry_.dim); }
  [[nodiscard]] int32_t block_k() const { return static_cast<int32_t>(geometry_.block_k); }
  [[nodiscard]] int32_t key_blocks32() const { return static_cast<int32_t>(geometry_.key_blocks); }

  void pool(const Forward& in, const DeviceWorkspace& w) {
    const Geometry& g = geometry_;
    cuda::PoolParams p{};
    p.k = rows(in.k, g.config.kv_heads);
    if (in.v.data != nullptr) p.v = rows(in.v, g.config.kv_heads);
    p.means = w.means, p.value_peaks = in.v.data == nullptr ? nullptr : w.value_peaks;
    p.key_tokens = g.config.key_tokens;
    p.dim = dim(), p.width = shape_.width, p.block_k = block_k(), p.mean_row = shape_.mean_row;
    start("sla2_pool", g.key_blocks, g.key_heads, cuda::kPrepareThreads, 0, p);
    cuda::CentreParams c{};
    c.means = w.means, c.shift = w.shift, c.value_peaks = p.value_peaks, c.value_scale = w.value_scale;
    c.key_tokens = p.key_tokens, c.dim = p.dim, c.width = p.width, c.block_k = p.block_k, c.mean_row = p.mean_row;
    c.key_blocks = key_blocks32();
    start("sla2_centre", 1, g.key_heads, cuda::kPrepareThreads, 0, c);
  }

  void route_blocks(const Forward& in, const DeviceWorkspace& w) {
    const Geometry& g = geometry_;
    cuda::RouteParams p{};
    p.q = rows(in.q, g.config.heads);
    p.means = w.means;
    p.router_q = in.parameters.router_q, p.router_k = in.parameters.router_k;
    p.list = in.list == nullptr ? w.list : in.list->index, p.count = in.list == nullptr ? w.count : in.list->count;
    p.rest_log_sum = w.rest_log_sum;
    p.scale = g.scale;
    p.query_tokens = g.config.query_tokens, p.key_tokens = g.config.key_tokens, p.capacity = capacity(in);
    p.dim = dim(), p.block_q = static_cast<int32_t>(g.block_q), p.block_k = block_k();
    p.query_blocks = static_cast<int32_t>(g.query_blocks), p.key_blocks = key_blocks32(), p.mean_row = shape_.mean_row;
    p.keep = static_cast<int32_t>(g.top_k), p.heads = static_cast<int32_t>(g.config.heads);
    p.heads_per_key = static_cast<int32_t>(g.heads_per_key), p.router_heads = static_cast<int32_t>(in.parameters.router_heads);
    start("sla2_route", g.query_blocks, g.heads, cuda::kPrepareThreads, cuda::route_bytes(p.key_blocks, p.dim), p);
  }
  [[nodiscard]] int64_t capacity(const Forward& in) const { return in.list == nullptr ? geometry_.max_kept : in.list->capacity; }

  void pack(const Forward& in, const DeviceWorkspace& w) {
    const Geometry& g = geometry_;
    cuda::PackParams p{};
    p.k = rows(in.k, g.config.kv_heads), p.v = rows(in.v, g.config.kv_heads);
    p.shift = g.centred() ? w.shift : nullptr, p.value_scale = w.value_scale;
    p.keys = w.keys, p.key_scale = w.key_scale, p.values = w.values, p.values8 = w.values8, p.features = w.features, p.z = w.z;
    p.key_tokens = g.config.key_tokens;
    p.dim = dim(), p.width = shape_.width, p.block_k = block_k(), p.key_blocks = key_blocks32();
    p.smooth_features = g.config.smooth_k ? 1 : 0;
    start("sla2_pack", g.key_blocks, g.key_heads, cuda::kPrepareThreads, cuda::pack_bytes(p.block_k, p.width), p);
  }

  void total(const DeviceWorkspace& w) {
    const Geometry& g = geometry_;
    const int64_t size = static_cast<int64_t>(shape_.width) * shape_.width, sum_threads = 256;
    const cuda::TotalsParams p{w.features,  w.values, w.partial, key_blocks32() * shape_.tiles_per_block, shape_.tiles_per_part,
                               shape_.parts};
    start(totals_name(), shape_.parts, g.key_heads, static_cast<uint32_t>(shape_.width / 16 * 32),
          cuda::stream_bytes(shape_.width), p);
    const cuda::SumTotalsParams s{w.partial, w.z, w.state_total, w.z_total, shape_.parts, key_blocks32(), shape_.width};
    start("sla2_sum_totals", size / sum_threads + 1, g.key_heads, sum_threads, 0, s);
  }

  void attend(const Forward& in, const DeviceWorkspace& w) {
    const Geometry& g = geometry_;
    const Config& c = g.config;
    cuda::AttendParams p{};
    p.q = rows(in.q, c.heads), p.out = rows(in.out, c.heads);
    p.keys = w.keys, p.values = shape_.fp8 ? w.values8 : w.values, p.features = w.features, p.feature_values = w.values;
    p.key_scale = w.key_scale, p.value_scale = w.value_scale;
    p.key_bias = in.key_bias;
    if (g.routed) p.list = in.list == nullptr ? w.list : in.list->index, p.count = in.list == nullptr ? w.count : in.list->count;
    p.state_total = w.state_total, p.z_total = w.z_total, p.z = w.z;
    p.rest_log_sum = w.rest_log_sum, p.mix = in.parameters.mix;
    p.shift = in.lse != nullptr && g.centred() ? w.shift : nullptr;
    p.lse = in.lse;
    p.query_tokens = c.query_tokens, p.key_tokens = c.key_tokens, p.capacity = capacity(in);
    p.scale = static_cast<float>(g.scale * 1.4426950408889634);
    p.mix_scale = static_cast<float>(c.mix_scale), p.mix_bias = static_cast<float>(c.mix_bias);
    p.dim = dim(), p.block_q = static_cast<int32_t>(g.block_q), p.block_k = block_k();
    p.query_blocks = static_cast<int32_t>(g.query_blocks), p.key_blocks = key_blocks32(),
    p.tiles_per_block = shape_.tiles_per_block;
    p.heads = static_cast<int32_t>(c.heads), p.heads_per_key = static_cast<int32_t>(g.heads_per_key);
    p.join = g.mode == Mode::kSla2         ? cuda::kJoinMix
             : g.mode == Mode::kLPlusS     ? cuda::kJoinSum
             : g.mode == Mode::kLinearOnly ? cuda::kJoinLinear
                                           : cuda::kJoinSoftmax;
    p.mix_by_lse = c.mix == Mix::kHeadAffineLse ? 1 : 0;
    if (in.parameters.mix != nullptr)
      p.mix_source = c.mix == Mix::kHeadScalar ? cuda::kMixScalar : c.mix == Mix::kBlock ? cuda::kMixBlock : cuda::kMixAffine;
    p.stream_at = stream_at_;
    start(attend_.c_str(), g.query_blocks, g.heads, shape_.threads, shared_bytes_, p);
  }

  device::Launcher& gpu_;
  Geometry geometry_;
  DeviceShape shape_;
  std::string attend_;
  uint32_t stream_at_ = 0, shared_bytes_ = 0;
  uint64_t bytes_ = 0;
  void* stream_ = nullptr;
  Stats stats_;
};

}  // namespace

std::unique_ptr<Plan> Plan::create(const Config& config, device::Launcher& gpu) {
  return std::make_unique<DevicePlan>(config, gpu);
}

}  // namespace sla2::attention
