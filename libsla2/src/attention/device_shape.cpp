// SPDX-License-Identifier: Apache-2.0
#include <bit>

#include "attention/cursor.h"
#include "attention/device_plan.h"
#include "attention/rules.h"
#include "core/arithmetic.h"

namespace sla2::attention {
namespace {

constexpr int64_t kMostDim = 128;
constexpr int64_t kMostGridY = 65535;  // CUDA's limit on blocks along y
constexpr int64_t kMostBlocks = 8192;  // the router keeps a row of fp64 scores in shared memory: 64 KB
constexpr int kFirst = 80;             // architecture
constexpr int64_t kPartTiles = 32;     // tiles per partial state: a few hundred parts to share among SMs at 30000 tokens

bool is_routed(const Config& c) { return c.mode != Mode::kFull && c.mode != Mode::kLinearOnly; }

/// One thing that does not run on a GPU: the field, its value, whether it is so, and what to do.
struct Refusal {
  const char* field;
  double (*value)(const Config& c, int architecture);
  bool (*applies)(const Config& c, int architecture);
  const char* remedy;
};

// The first that applies is said. docs/kernels/cuda.md, "What runs", is this list in words.
const Refusal kRefused[] = {
    {"the compute capability (x 10)", [](const Config&, int a) -> double { return a; },
     [](const Config&, int a) { return a < kFirst; }, "the kernels need 80 or more"},
    {"bits", [](const Config& c, int) -> double { return c.bits; },
     [](const Config& c, int) { return c.bits == 16 && c.products != DType::kBF16; },
     "products are fp32; tensor cores multiply bf16 or 8 bits: set products to bf16, or bits to 8"},
    {"the compute capability (x 10)", [](const Config&, int a) -> double { return a; },
     [](const Config& c, int a) { return c.fp8_values && c.bits == 8 && !multiplies_e4m3(a) && !hopper_takes(c, a); },
     "fp8_values needs 89, 120, or 90 with head_dim 65 to 128, block_q 128, block_k 64 or 128, modes sla1 and pooled apart: "
     "leave it at 0"},
    {"head_dim", [](const Config& c, int) { return static_cast<double>(c.head_dim); },
     [](const Config& c, int) { return c.head_dim > kMostDim; }, "up to 128 is built: run on the CPU"},
    {"batch · heads", [](const Config& c, int) { return static_cast<double>(c.batch * c.heads); },
     [](const Config& c, int) { return c.batch * c.heads > kMostGridY; }, "at most 65535 in a call: split the batch"},
    {"key_tokens", [](const Config& c, int) { return static_cast<double>(c.key_tokens); },
     [](const Config& c, int) { return is_routed(c) && ceil_div(c.key_tokens, c.block_k) > kMostBlocks; },
     "a row of scores stays in shared memory, which holds 8192 key blocks: raise block_k"},
};

/// Scores, and what the rule needs beside.
cuda::RouteMap route_map(const Geometry& g, bool likeness) {
  const Config& c = g.config;
  const bool ranked = c.router == Router::kVmoba || (c.router == Router::kSparge && c.rule != Rule::kTopK);
  const auto blocks = static_cast<uint32_t>(g.key_blocks);
  int64_t extra = 0;
  if (likeness) extra = g.block_q * static_cast<int64_t>(sizeof(double));
  if (c.router == Router::kGiven) extra = g.key_blocks * static_cast<int64_t>(sizeof(uint16_t));
  return cuda::route_map(static_cast<int>(ranked ? std::bit_ceil(blocks) : blocks), static_cast<int>(g.dim),
                         static_cast<int>(extra));
}

}  // namespace

std::string device_refusal(const Config& c, int architecture) {
  for (const Refusal& rule : kRefused)
    if (rule.applies(c, architecture))
      return fmt::format("attention on CUDA: {} is {}; {}", rule.field, rule.value(c, architecture), rule.remedy);
  return "";
}

DeviceShape device_shape(const Geometry& g, int architecture) {
  DeviceShape s;
  const Config& c = g.config;
  const bool softmax = g.mode != Mode::kLinearOnly;
  s.fp8 = g.fp8 && softmax, s.int8 = g.int8 && softmax;
  s.half_sums = s.fp8 && sums_in_fp16(c, architecture);
  s.products = s.half_sums ? cuda::Products::kInt8Fp8Half
               : s.fp8     ? cuda::Products::kInt8Fp8
               : s.int8    ? cuda::Products::kInt8
                           : cuda::Products::kBf16;
  s.width = g.dim <= 64 ? 64 : 128;
  s.linear = g.linear;
  s.everywhere = g.mode == Mode::kLPlusS || (g.mode == Mode::kSla1 && c.scope == Scope::kGlobal);
  s.drops = g.linear && g.routed && c.negligible > 0;
  s.likeness = g.routed && c.router == Router::kSparge && c.theta > 0;  // likeness is never below 0
  s.pooled = g.pooled, s.soft = g.soft;
  s.coarse = g.routed && c.router == Router::kVsa;
  s.tiles_per_block = static_cast<int32_t>(std::max<int64_t>(g.block_k / cuda::kTileKeys, 1));
  s.blocks_per_tile = static_cast<int32_t>(std::max<int64_t>(cuda::kTileKeys / g.block_k, 1));
  s.mean_row = static_cast<int32_t>(g.route_row);
  const int64_t tiles = ceil_div(g.key_blocks * g.block_k, cuda::kTileKeys);
  s.key_tiles = static_cast<int32_t>(tiles);
  if (s.pooled) s.mean_tiles = static_cast<int32_t>(ceil_div(g.key_blocks, cuda::kTileKeys));
  s.scales = static_cast<int32_t>(g.key_blocks) + s.mean_tiles;
  s.tiles_per_part = static_cast<int32_t>(std::min(tiles, kPartTiles));
  s.parts = static_cast<int32_t>(ceil_div(tiles, s.tiles_per_part));
  s.threads = static_cast<uint32_t>(g.block_q / cuda::kWarpRows * 32);
  const cuda::AttendMap map = cuda::attend_map(s.width, s.products, s.linear);
  // With as many warps as the state has stretches of 16 rows, its tiles may pass where it will stand.
  s.stream_at = static_cast<int>(s.threads) / 32 >= s.width / 16 ? map.state : map.keys;
  s.shared_bytes = s.linear ? std::max(map.bytes, s.stream_at + cuda::stream_bytes(s.width)) : map.bytes;
  s.probe_bytes = cuda::attend_map(s.width, s.products, false).bytes;
  s.route = route_map(g, s.likeness);
  return s;
}

DeviceWorkspace device_workspace(const Geometry& g, const DeviceShape& s, std::byte* base) {
  Cursor cursor(base);
  DeviceWorkspace w;
  const int64_t tiles = g.key_heads * (s.key_tiles + s.mean_tiles), size = tiles * cuda::kTileKeys * s.width;
  const int64_t block_rows = g.key_heads * g.key_blocks * s.width;  // a row of W for each key block
  const bool softmax = g.mode != Mode::kLinearOnly;
  if (softmax) cursor.take(w.keys, size * cuda::key_bytes(s.products));
  if (!s.fp8 || s.linear) cursor.take(w.values, size * 2);
  if (s.fp8) cursor.take(w.values8, size);
  if (s.int8) cursor.take(w.key_scale, g.key_heads * s.scales);
  if (s.fp8) {
    cursor.take(w.value_peaks, block_rows);
    cursor.take(w.value_scale, g.key_heads * s.width);
  }
  if (g.centred()) {
    cursor.take(w.means, g.key_heads * g.dim * s.mean_row);
    cursor.take(w.shift, g.key_heads * g.dim);
  }
  if (g.pools_values()) cursor.take(w.value_means, block_rows);
  if (s.pooled) cursor.take(w.mean_keys, block_rows);
  if (s.likeness) cursor.take(w.likeness, g.key_heads * g.key_blocks);
  if (s.linear) {
    cursor.take(w.features, size * 2);
    cursor.take(w.z, block_rows);
    cursor.take(w.partial, g.key_heads * s.parts * s.width * s.width);
    cursor.take(w.state_total, g.key_heads * s.width * s.width);
    cursor.take(w.z_total, g.key_heads * 2 * s.width);
  }
  if (g.routed) {
    const int64_t rows = g.heads * g.query_blocks;
    if (s.soft) cursor.take(w.soft, rows * g.key_blocks);
    if (!s.soft) cursor.take(w.list, rows * g.max_kept), cursor.take(w.count, rows);
    if (s.drops) cursor.take(w.apart, rows * g.key_blocks), cursor.take(w.apart_count, rows);
    if (s.pooled && !s.soft) cursor.take(w.kept_bits, rows * ceil_div(g.key_blocks, 32));
    if (s.coarse) cursor.take(w.coarse, rows * s.width);
    if (g.mode == Mode::kSla2) cursor.take(w.rest_log_sum, rows);
  }
  const int64_t warps = g.heads * g.query_blocks * s.threads / 32;
  if (g.mode == Mode::kSla2) cursor.take(w.linear_shares, warps);
  if (softmax) cursor.take(w.probe, warps * cuda::kProbeSums);
  w.bytes = cursor.used();
  return w;
}

}  // namespace sla2::attention
