// SPDX-License-Identifier: Apache-2.0
#include "attention/device_backward.h"

#include "attention/cursor.h"
#include "attention/device_rows.h"
#include "core/arithmetic.h"

namespace sla2::attention {
namespace {

constexpr int64_t kTile = cuda::kTileKeys, kHalf = 32;  // rows of a tile and of half of one
constexpr double kLog2E = 1.4426950408889634;

/// Empty, or why there are no gradients of what runs forward.
std::string refusal(const Geometry& g) {
  const Config& c = g.config;
  const bool built = g.mode == Mode::kFull || g.mode == Mode::kSla2 || g.mode == Mode::kSparseOnly ||
                     g.mode == Mode::kLinearOnly || g.mode == Mode::kLPlusS;
  if (!built)
    return fmt::format(
        "attention on CUDA: gradients of mode {} are not built; those of full, sla2, sparse_only, linear_only and "
        "l_plus_s are: run backward on the CPU",
        static_cast<int>(g.mode));
  if (g.soft) return "attention on CUDA: tau is above 0; gradients of soft masks are not built: run backward on the CPU";
  if (g.routed && c.router == Router::kVsa)
    return "attention on CUDA: router is vsa; gradients of its coarse branch are not built: run backward on the CPU";
  if (g.block_k < kTile)
    return fmt::format("attention on CUDA: block_k is {}; gradients are built for 64 and 128: run backward on the CPU",
                       g.block_k);
  return "";
}

}  // namespace

DeviceBackward::DeviceBackward(device::Launcher& gpu, const Geometry& geometry)
    : gpu_(gpu), geometry_(geometry), refusal_(refusal(geometry)) {
  if (!refusal_.empty()) return;
  geometry_.int8 = geometry_.fp8 = false;  // the backward multiplies bf16 numbers whatever the forward did
  shape_ = device_shape(geometry_, gpu.architecture());
  // Keys minus their mean have less to round: wherever the configuration says so, also where full attention takes its place.
  centred_ = geometry_.config.mode != Mode::kFull;
  query_tiles_ = static_cast<int32_t>(ceil_div(geometry_.query_blocks * geometry_.block_q, kTile));
  query_tiles_per_part_ = std::min(query_tiles_, shape_.tiles_per_part);
  query_parts_ = static_cast<int32_t>(ceil_div(query_tiles_, query_tiles_per_part_));
  bytes_ = make_workspace(nullptr).bytes;
  prepare();
}

DeviceBackwardWorkspace DeviceBackward::make_workspace(std::byte* base) const {
  const Geometry& g = geometry_;
  Cursor cursor(base);
  DeviceBackwardWorkspace w;
  const int64_t width = shape_.width, keys = g.key_heads * g.key_blocks * g.block_k, rows = g.heads * query_tiles_ * kTile;
  const bool softmax = g.mode != Mode::kLinearOnly;
  if (softmax) {
    cursor.take(w.keys, keys * width * 2);
    cursor.take(w.queries, rows * width * 2);
    for (float** const x : {&w.rows.top, &w.rows.weight, &w.rows.mean}) cursor.take(*x, rows);
  }
  cursor.take(w.values, keys * width * 2);
  cursor.take(w.gradients, rows * width * 2);
  cursor.take(w.d_keys, keys * width);
  cursor.take(w.d_values, keys * width);
  if (centred_) {
    cursor.take(w.means, g.key_heads * g.dim * shape_.mean_row);
    cursor.take(w.shift, g.key_heads * g.dim);
    cursor.take(w.columns, g.key_heads * g.key_blocks * width);
    cursor.take(w.mean_gradient, g.key_heads * width);
  }
  if (shape_.linear) {
    const int64_t state = width * width;
    cursor.take(w.features, keys * width * 2);
    cursor.take(w.shares, rows * width * 2);
    cursor.take(w.d_queries, rows * width);
    cursor.take(w.z, g.key_heads * g.key_blocks * width);
    cursor.take(w.d_z, g.heads * g.query_blocks * width);
    cursor.take(w.d_floor, g.heads * g.query_blocks * width);
    cursor.take(w.partial, std::max(g.key_heads * shape_.parts, g.heads * query_parts_) * state);
    for (float** const x : {&w.state_total, &w.d_state_total}) cursor.take(*x, g.key_heads * state);
    for (float** const x : {&w.z_total, &w.d_z_total}) cursor.take(*x, g.key_heads * 2 * width);
    cursor.take(w.floor_total, g.key_heads * width);
  }
  if (g.routed) {
    cursor.take(w.begin, g.heads * (g.key_blocks + 1));
    cursor.take(w.index, g.heads * g.query_blocks * g.max_kept);
  }
  if (g.mode == Mode::kSla2) {
    cursor.take(w.rest_log_sum, g.heads * g.query_blocks);
    cursor.take(w.d_mix, g.heads * g.query_blocks * 2);
  }
  w.bytes = cursor.used();
  return w;
}

namespace {

/// Shared memory of the kernels.
uint32_t pair_bytes(int width) { return static_cast<uint32_t>(4 * kTile * width * 2); }
uint32_t state_bytes(int width) { return std::max(static_cast<uint32_t>(width * width * 2), cuda::stream_bytes(width)); }
uint32_t linear_bytes(int width) {
  const uint32_t lines = static_cast<uint32_t>((3 + cuda::kMaxThreads / 32) * width * 4);
  return (lines + 1023) / 1024 * 1024 + state_bytes(width);
}
uint32_t linear_keys_bytes(int width) { return (static_cast<uint32_t>(3 * width * 4) + 1023) / 1024 * 1024 + state_bytes(width); }
cuda::RouteMap rest_map(const Geometry& g) { return cuda::route_map(static_cast<int>(g.key_blocks), static_cast<int>(g.dim), 0); }
constexpr uint32_t kScanBytes = cuda::kPrepareThreads * 4;

}  // namespace

void DeviceBackward::prepare() {
  const Geometry& g = geometry_;
  const int width = shape_.width;
  const auto load = [this](const std::string& name, uint32_t shared) { gpu_.prepare(name.c_str(), shared); };
  for (const char* const name : {"sla2_backward_columns", "sla2_backward_totals", "sla2_backward_store", "sla2_backward_mix",
                                 "sla2_backward_zero", "sla2_backward_given"})
    load(name, 0);
  load("sla2_pack", cuda::pack_bytes(static_cast<int>(g.block_k), width));
  load(kernel("sla2_backward_queries_"), pair_bytes(width));
  if (g.mode != Mode::kLinearOnly) {
    load(kernel("sla2_backward_statistics_"), pair_bytes(width));
    load(kernel("sla2_backward_keys_"), pair_bytes(width));
  }
  if (centred_)
    for (const char* const name : {"sla2_pool", "sla2_centre"}) load(name, 0);
  if (g.routed) {
    load("sla2_transpose_count", 0);
    load("sla2_transpose_scan", kScanBytes);
    load("sla2_transpose_fill", 0);
  }
  if (g.mode == Mode::kSla2) load("sla2_rest", rest_map(g).bytes);
  if (!shape_.linear) return;
  load(kernel("sla2_totals_"), cuda::stream_bytes(width));
  load("sla2_sum_totals", 0);
  load(kernel("sla2_backward_linear_"), linear_bytes(width));
  load(kernel("sla2_backward_linear_keys_"), linear_keys_bytes(width));
}

void DeviceBackward::check(const Backward& in, const void* workspace) const {
  SLA2_CHECK(refusal_.empty(), SLA2_E_UNSUPPORTED, "{}", refusal_);
  SLA2_CHECK(
      in.q.data != nullptr && in.k.data != nullptr && in.v.data != nullptr && in.d_out.data != nullptr && workspace != nullptr,
      SLA2_E_ARGUMENT, "attention: backward got a null pointer for q, k, v, d_out or the workspace");
  const auto type = [](const char* name, const void* data, DType dtype) {
    SLA2_CHECK(data == nullptr || dtype == DType::kF32 || dtype == DType::kBF16 || dtype == DType::kF16, SLA2_E_UNSUPPORTED,
               "attention: {} is {}; expected fp32, bf16 or fp16", name, dtype_name(dtype));
  };
  for (const auto& [name, x] : {std::pair{"q", &in.q}, {"k", &in.k}, {"v", &in.v}, {"d_out", &in.d_out}, {"out", &in.out}})
    type(name, x->data, x->dtype);
  const Gradients& g = in.gradients;
  for (const auto& [name, x] : {std::pair{"gradient of q", &g.q}, {"gradient of k", &g.k}, {"gradient of v", &g.v}})
    type(name, x->data, x->dtype);
  SLA2_CHECK(g.gate.data == nullptr, SLA2_E_ARGUMENT,
             "attention: the gradient of a gate was asked for; expected router vsa and a gate");
  SLA2_CHECK(in.parameters.router_heads == 1 || in.parameters.router_heads == geometry_.config.heads, SLA2_E_ARGUMENT,
             "attention: router_heads is {}; expected 1 or {}", in.parameters.router_heads, geometry_.config.heads);
  SLA2_CHECK(!geometry_.routed || (in.list != nullptr && in.list->index != nullptr && in.list->count != nullptr), SLA2_E_ARGUMENT,
             "attention: backward of a hard mask got no list of blocks; pass the one forward returned");
}

template <typename Params>
void DeviceBackward::start(const std::string& kernel, int64_t grid_x, int64_t grid_y, uint32_t threads, uint32_t shared,
                           const Params& params) {
  gpu_.launch({kernel.c_str(), static_cast<uint32_t>(grid_x), static_cast<uint32_t>(grid_y), threads, shared, &params,
               sizeof params, stream_});
}

void DeviceBackward::run(const Backward& in, void* workspace) {
  check(in, workspace);
  const DeviceBackwardWorkspace w = make_workspace(static_cast<std::byte*>(workspace));
  stream_ = in.stream;
  prepare_keys(in, w);
  pack_queries(in, w);
  if (shape_.linear) add_totals(w, false);
  if (geometry_.routed) transpose(in, w);
  queries(in, w);
  if (shape_.linear) add_totals(w, true);
  if (in.gradients.k.data != nullptr || in.gradients.v.data != nullptr) {
    keys(in, w);
    store_keys(in, w);
  }
  parameters(in, w);
}

/// μ, tiles of K − μ and V, φ(K).
void DeviceBackward::prepare_keys(const Backward& in, const DeviceBackwardWorkspace& w) {
  const Geometry& g = geometry_;
  const auto dim = static_cast<int32_t>(g.dim), block_k = static_cast<int32_t>(g.block_k);
  const auto key_blocks = static_cast<int32_t>(g.key_blocks);
  if (centred_) {
    cuda::PoolParams p{};
    p.k = rows(in.k, g.config.kv_heads), p.means = w.means, p.key_tokens = g.config.key_tokens;
    p.dim = dim, p.width = shape_.width, p.block_k = block_k, p.mean_row = shape_.mean_row;
    start("sla2_pool", g.key_blocks, g.key_heads, cuda::kPrepareThreads, 0, p);
    cuda::CentreParams c{};
    c.means = w.means, c.shift = w.shift, c.key_tokens = g.config.key_tokens;
    c.dim = dim, c.width = shape_.width, c.block_k = block_k, c.key_blocks = key_blocks, c.mean_row = shape_.mean_row;
    start("sla2_centre", 1, g.key_heads, cuda::kPrepareThreads, 0, c);
  }
  cuda::PackParams p{};
  p.k = rows(in.k, g.config.kv_heads), p.v = rows(in.v, g.config.kv_heads), p.shift = w.shift;
  p.keys = w.keys, p.values = w.values, p.features = w.features, p.z = w.z;
  p.key_tokens = g.config.key_tokens, p.dim = dim, p.width = shape_.width, p.block_k = block_k, p.key_blocks = key_blocks;
  p.tiles = shape_.key_tiles;
  p.smooth_features = g.config.smooth_k ? 1 : 0;
  start("sla2_pack", g.key_blocks, g.key_heads, cuda::kPrepareThreads, cuda::pack_bytes(block_k, shape_.width), p);
}

/// Tiles of Q and dO: for the packing kernel they are keys and values of as many heads.
void DeviceBackward::pack_queries(const Backward& in, const DeviceBackwardWorkspace& w) {
  const Geometry& g = geometry_;
  cuda::PackParams p{};
  p.k = rows(in.q, g.config.heads), p.v = rows(in.d_out, g.config.heads);
  p.keys = w.queries, p.values = w.gradients;
  p.key_tokens = g.config.query_tokens, p.dim = static_cast<int32_t>(g.dim), p.width = shape_.width;
  p.block_k = static_cast<int32_t>(kTile), p.key_blocks = p.tiles = query_tiles_;
  start("sla2_pack", query_tiles_, g.heads, cuda::kPrepareThreads, cuda::pack_bytes(p.block_k, shape_.width), p);
}

/// Σ φ(K)ᵀ·V over all keys; or Σ Gᵀ·dO and Σ dZ over all queries of the heads that share a key head, whose parts lie together.
void DeviceBackward::add_totals(const DeviceBackwardWorkspace& w, bool of_queries) {
  const Geometry& g = geometry_;
  constexpr uint32_t kSumThreads = 256;
  const auto threads = static_cast<uint32_t>(shape_.width / 16 * 32), shared = cuda::stream_bytes(shape_.width);
  const int64_t grid = static_cast<int64_t>(shape_.width) * shape_.width / kSumThreads + 1;
  if (!of_queries) {
    const auto key_blocks = static_cast<int32_t>(g.key_blocks);
    const cuda::TotalsParams t{w.features, w.values, w.partial, shape_.key_tiles, shape_.tiles_per_part, shape_.parts};
    start(kernel("sla2_totals_"), shape_.parts, g.key_heads, threads, shared, t);
    const cuda::SumTotalsParams s{w.partial, w.z, w.state_total, w.z_total, shape_.parts, key_blocks, shape_.width};
    start("sla2_sum_totals", grid, g.key_heads, kSumThreads, 0, s);
    return;
  }
  const auto sharing = static_cast<int32_t>(g.heads_per_key), blocks = sharing * static_cast<int32_t>(g.query_blocks);
  const cuda::TotalsParams t{w.shares, w.gradients, w.partial, query_tiles_, query_tiles_per_part_, query_parts_};
  start(kernel("sla2_totals_"), query_parts_, g.heads, threads, shared, t);
  const cuda::SumTotalsParams s{w.partial, w.d_z, w.d_state_total, w.d_z_total, sharing * query_parts_, blocks, shape_.width};
  start("sla2_sum_totals", grid, g.key_heads, kSumThreads, 0, s);
  const cuda::RowTotalsParams f{w.d_floor, w.floor_total, 1, blocks, shape_.width};
  start("sla2_backward_totals", 1, g.key_heads, cuda::kPrepareThreads, 0, f);
}

void DeviceBackward::transpose(const Backward& in, const DeviceBackwardWorkspace& w) {
  const Geometry& g = geometry_;
  const cuda::TransposeParams p{in.list->index,
                                in.list->count,
                                w.begin,
                                w.index,
                                in.list->capacity,
                                static_cast<int32_t>(g.query_blocks),
                                static_cast<int32_t>(g.key_blocks),
                                static_cast<int32_t>(g.max_kept)};
  const int64_t parts = ceil_div(g.key_blocks, cuda::kPrepareThreads);
  start("sla2_transpose_count", parts, g.heads, cuda::kPrepareThreads, 0, p);
  start("sla2_transpose_scan", 1, g.heads, cuda::kPrepareThreads, kScanBytes, p);
  start("sla2_transpose_fill", parts, g.heads, cuda::kPrepareThreads, 0, p);
}

/// What the kernels of the forward would be told.
cuda::AttendParams DeviceBackward::attend_params(const Backward& in, const DeviceBackwardWorkspace& w) const {
  const Geometry& g = geometry_;
  const Config& c = g.config;
  cuda::AttendParams p{};
  p.q = rows(in.q, c.heads);
  p.keys = w.keys, p.values = w.values, p.features = w.features, p.feature_values = w.values;
  if (g.routed) p.list = in.list->index, p.count = in.list->count, p.capacity = in.list->capacity;
  if (g.mode == Mode::kSla2) p.apart = p.list, p.apart_count = p.count, p.apart_capacity = p.capacity;
  p.state_total = w.state_total, p.z_total = w.z_total, p.z = w.z;
  p.rest_log_sum = w.rest_log_sum;
  p.query_tokens = c.query_tokens, p.key_tokens = c.key_tokens;
  p.scale = static_cast<float>(g.scale * kLog2E);
  p.mix_scale = static_cast<float>(c.mix_scale), p.mix_bias = static_cast<float>(c.mix_bias);
  p.dim = static_cast<int32_t>(g.dim), p.block_q = static_cast<int32_t>(g.block_q), p.block_k = static_cast<int32_t>(g.block_k);
  p.query_blocks = static_cast<int32_t>(g.query_blocks), p.key_blocks = static_cast<int32_t>(g.key_blocks);
  p.tiles = p.key_tiles = shape_.key_tiles;
  p.tiles_per_block = shape_.tiles_per_block, p.blocks_per_tile = shape_.blocks_per_tile;
  p.heads = static_cast<int32_t>(c.heads), p.heads_per_key = static_cast<int32_t>(g.heads_per_key);
  p.join = g.mode == Mode::kSla2         ? cuda::kJoinMix
           : g.mode == Mode::kLPlusS     ? cuda::kJoinSum
           : g.mode == Mode::kLinearOnly ? cuda::kJoinLinear
                                         : cuda::kJoinSoftmax;
  if (g.mode != Mode::kSla2) return p;
  p.mix_by_lse = c.mix == Mix::kHeadAffineLse ? 1 : 0;
  p.mix = c.mix == Mix::kConst ? nullptr : in.parameters.mix;
  if (p.mix != nullptr)
    p.mix_source = c.mix == Mix::kHeadScalar ? cuda::kMixScalar : c.mix == Mix::kBlock ? cuda::kMixBlock : cuda::kMixAffine;
  return p;
}

/// Row statistics, the linear branch's side of the queries, dQ.
void DeviceBackward::queries(const Backward& in, const DeviceBackwardWorkspace& w) {
  const Geometry& g = geometry_;
  const cuda::AttendParams base = attend_params(in, w);
  const auto warps = static_cast<uint32_t>(g.block_q / cuda::kWarpRows);
  const bool softmax = g.mode != Mode::kLinearOnly, given = softmax && in.out.data != nullptr && in.lse != nullptr;
  if (given) {
    cuda::GivenParams p{base, rows(in.d_out, g.config.heads), w.rows, query_tiles_};
    p.a.out = rows(in.out, g.config.heads), p.a.shift = w.shift, p.a.lse = const_cast<float*>(in.lse);
    start("sla2_backward_given", g.query_blocks, g.heads, warps * 32, 0, p);
  } else if (softmax) {
    const cuda::StatisticsParams p{base, w.queries, w.gradients, w.rows, query_tiles_};
    start(kernel("sla2_backward_statistics_"), g.query_blocks, g.heads, warps * 32, pair_bytes(shape_.width), p);
  }
  if (base.mix_by_lse != 0) {
    cuda::RouteParams p{};
    p.q = base.q, p.means = w.means, p.list = in.list->index, p.count = in.list->count, p.rest_log_sum = w.rest_log_sum;
    p.scale = g.scale, p.query_tokens = base.query_tokens, p.key_tokens = base.key_tokens, p.capacity = base.capacity;
    p.dim = base.dim, p.block_q = base.block_q, p.block_k = base.block_k, p.query_blocks = base.query_blocks;
    p.key_blocks = base.key_blocks, p.mean_row = shape_.mean_row, p.heads = base.heads, p.heads_per_key = base.heads_per_key;
    p.map = rest_map(g);
    start("sla2_rest", g.query_blocks, g.heads, cuda::kPrepareThreads, p.map.bytes, p);
  }
  if (shape_.linear) {
    const cuda::LinearParams p{base,  w.gradients, w.rows,  w.shares,     w.d_queries,
                               w.d_z, w.d_floor,   w.d_mix, query_tiles_, given ? 1 : 0};
    const uint32_t needed = std::max(warps, static_cast<uint32_t>(shape_.width / 16));
    start(kernel("sla2_backward_linear_"), g.query_blocks, g.heads, needed * 32, linear_bytes(shape_.width), p);
  }
  if (in.gradients.q.data == nullptr) return;
  cuda::QueriesParams p{base, w.queries, w.gradients, w.rows, w.d_queries, static_cast<float>(g.scale), query_tiles_};
  p.a.out = rows(in.gradients.q, g.config.heads);
  start(kernel("sla2_backward_queries_"), g.query_blocks, g.heads, warps * 32, pair_bytes(shape_.width), p);
}

cuda::Columns DeviceBackward::columns(const DeviceBackwardWorkspace& w) const {
  const Geometry& g = geometry_;
  return {w.begin,
          w.index,
          static_cast<int32_t>(g.query_blocks),
          static_cast<int32_t>(g.key_blocks),
          static_cast<int32_t>(g.max_kept),
          static_cast<int32_t>(g.block_q / kHalf),
          static_cast<int32_t>(g.heads_per_key)};
}

/// dK and dV in fp32: the linear branch's first, the softmax's added.
void DeviceBackward::keys(const Backward& in, const DeviceBackwardWorkspace& w) {
  const Geometry& g = geometry_;
  if (shape_.linear) {
    cuda::LinearKeysParams p{};
    p.k = rows(in.k, g.config.kv_heads), p.columns = columns(w);
    p.shares = w.shares, p.gradients = w.gradients, p.values = w.values;
    p.shift = g.config.smooth_k ? w.shift : nullptr;
    p.state_total = w.d_state_total, p.z_total = w.d_z_total, p.d_z = w.d_z, p.floor_total = w.floor_total;
    p.d_keys = w.d_keys, p.d_values = w.d_values, p.key_tokens = g.config.key_tokens;
    p.dim = static_cast<int32_t>(g.dim), p.block_k = static_cast<int32_t>(g.block_k), p.query_tiles = query_tiles_;
    p.everywhere = g.mode == Mode::kSla2 ? 0 : 1;
    start(kernel("sla2_backward_linear_keys_"), g.key_blocks, g.key_heads, static_cast<uint32_t>(shape_.width / 16 * 32),
          linear_keys_bytes(shape_.width), p);
  }
  const auto sum_columns = [&](float sign, bool add) {
    const cuda::ColumnsParams p{w.d_keys,
                                w.columns,
                                sign,
                                g.config.key_tokens,
                                shape_.width,
                                static_cast<int32_t>(g.block_k),
                                static_cast<int32_t>(g.key_blocks),
                                add ? 1 : 0};
    start("sla2_backward_columns", g.key_blocks, g.key_heads, cuda::kPrepareThreads, 0, p);
  };
  const bool apart = shape_.linear && !g.config.smooth_k;  // what K receives through φ does not come through K − μ
  if (apart) sum_columns(-1, false);
  if (g.mode != Mode::kLinearOnly) {
    const cuda::KeysParams p{columns(w),
                             w.queries,
                             w.gradients,
                             w.keys,
                             w.values,
                             w.rows,
                             w.d_keys,
                             w.d_values,
                             static_cast<float>(g.scale * kLog2E),
                             static_cast<float>(g.scale),
                             query_tiles_,
                             shape_.tiles_per_block,
                             shape_.linear ? 1 : 0};
    start(kernel("sla2_backward_keys_"), g.key_blocks * shape_.tiles_per_block, g.key_heads,
          static_cast<uint32_t>(kTile / cuda::kWarpRows * 32), pair_bytes(shape_.width), p);
  }
  if (!centred_) return;
  sum_columns(1, apart);
  const cuda::RowTotalsParams mean{w.columns, w.mean_gradient, 1.0F / static_cast<float>(g.config.key_tokens),
                                   static_cast<int32_t>(g.key_blocks), shape_.width};
  start("sla2_backward_totals", 1, g.key_heads, cuda::kPrepareThreads, 0, mean);
}

void DeviceBackward::store_keys(const Backward& in, const DeviceBackwardWorkspace& w) {
  const Geometry& g = geometry_;
  const auto store = [&](const MutableOperand& out, const float* from, const float* line) {
    if (out.data == nullptr) return;
    const cuda::StoreParams p{rows(out, g.config.kv_heads), from,        line, g.config.key_tokens, g.key_blocks * g.block_k,
                              static_cast<int32_t>(g.dim),  shape_.width};
    start("sla2_backward_store", ceil_div(g.config.key_tokens, kTile), g.key_heads, cuda::kPrepareThreads, 0, p);
  };
  store(in.gradients.k, w.d_keys, w.mean_gradient);
  store(in.gradients.v, w.d_values, nullptr);
}

/// da; a hard mask passes nothing on to the router, and no mode here has a projection.
void DeviceBackward::parameters(const Backward& in, const DeviceBackwardWorkspace& w) {
  const Geometry& g = geometry_;
  const Config& c = g.config;
  const Gradients& out = in.gradients;
  const auto zero = [&](float* data, int64_t count) {
    if (data == nullptr) return;
    start("sla2_backward_zero", ceil_div(count, cuda::kPrepareThreads), 1, cuda::kPrepareThreads, 0,
          cuda::ZeroParams{data, count});
  };
  const int64_t square = g.dim * g.dim;
  zero(out.router_q, in.parameters.router_heads * square);
  zero(out.router_k, in.parameters.router_heads * square);
  zero(out.proj, square);
  zero(out.proj_bias, g.dim);
  if (out.mix == nullptr) return;
  const bool by_block = c.mix == Mix::kBlock, affine = c.mix == Mix::kHeadAffineLse;
  const auto blocks = static_cast<int32_t>(g.mode == Mode::kSla2 ? g.query_blocks : g.list_query_blocks);
  const cuda::MixParams p{w.d_mix,
                          out.mix,
                          static_cast<int32_t>(g.heads),
                          blocks,
                          static_cast<int32_t>(c.mix == Mix::kConst ? 1 : c.heads),
                          by_block ? blocks
                          : affine ? 2
                                   : 1,
                          by_block ? 1 : 0,
                          affine ? 1 : 0};
  start("sla2_backward_mix", 1, 1, cuda::kPrepareThreads, 0, p);
}

}  // namespace sla2::attention
