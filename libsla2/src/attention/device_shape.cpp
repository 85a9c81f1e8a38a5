// SPDX-License-Identifier: Apache-2.0
#include "attention/cursor.h"
#include "attention/device_plan.h"
#include "attention/rules.h"

namespace sla2::attention {
namespace {

constexpr int64_t kMostDim = 128;
constexpr int64_t kMostGridY = 65535;                   // CUDA's limit on blocks along y
constexpr int64_t kMostBlocks = 8192;                   // the router keeps a row of fp64 scores in shared memory: 64 KB
constexpr int kFirst = 80, kAda = 89, kBlackwell = 12;  // architectures: the first; those whose mma.sync multiplies e4m3
constexpr int64_t kPartTiles = 32;  // tiles per partial state: a few hundred parts to share among SMs at 30000 tokens

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace

std::string device_refusal(const Config& c, int architecture) {
  const auto no = [](const char* field, int64_t value, const char* remedy) {
    return fmt::format("attention on CUDA: {} is {}; {}", field, value, remedy);
  };
  if (architecture < kFirst) return no("the compute capability (x 10)", architecture, "the kernels need 80 or more");
  if (c.bits == 16 && c.products != DType::kBF16)
    return "attention on CUDA: products are fp32; tensor cores multiply bf16 or 8 bits: set products to bf16, or bits to 8";
  if (c.fp8_values && c.bits == 8 && architecture != kAda && architecture / 10 != kBlackwell)
    return no("the compute capability (x 10)", architecture,
              "fp8_values needs 89 or 120 (Hopper: with wgmma, not built yet): leave it at 0");
  if (c.head_dim > kMostDim) return no("head_dim", c.head_dim, "up to 128 is built: run on the CPU");
  if (c.batch * c.heads > kMostGridY) return no("batch · heads", c.batch * c.heads, "at most 65535 in a call: split the batch");
  if (c.mode == Mode::kFull) return "";
  if (c.mode == Mode::kSla1 || c.mode == Mode::kPooled)
    return no("mode", static_cast<int64_t>(c.mode),
              "modes full, sla2, sparse_only, linear_only and l_plus_s are built: run on the CPU");
  if (c.block_k < cuda::kTileKeys) return no("block_k", c.block_k, "64 and 128 are built: run on the CPU");
  if (ceil_div(c.key_tokens, c.block_k) > kMostBlocks)
    return no("key_tokens", c.key_tokens, "at most 8192 key blocks: raise block_k");
  if (c.mode == Mode::kLinearOnly) return "";
  if (c.router != Router::kSla2 && c.router != Router::kSla1)
    return no("router", static_cast<int64_t>(c.router), "routers sla2 and sla1 are built: run on the CPU");
  if (c.tau > 0) return "attention on CUDA: tau is above 0; soft masks are not built: train on the CPU or leave tau at 0";
  if (c.protect_first > 0 || c.protect_last > 0 || c.protect_near >= 0)
    return "attention on CUDA: blocks are protected; that is not built: leave protect_* at their defaults";
  return "";
}

DeviceShape device_shape(const Geometry& g) {
  DeviceShape s;
  const bool softmax = g.mode != Mode::kLinearOnly;
  s.fp8 = g.fp8 && softmax, s.int8 = g.int8 && softmax;
  s.products = s.fp8 ? cuda::Products::kInt8Fp8 : s.int8 ? cuda::Products::kInt8 : cuda::Products::kBf16;
  s.width = g.dim <= 64 ? 64 : 128;
  s.linear = g.linear;
  s.tiles_per_block = static_cast<int32_t>(g.block_k / cuda::kTileKeys);
  s.mean_row = static_cast<int32_t>(g.route_row);
  const int64_t tiles = g.key_blocks * s.tiles_per_block;
  s.tiles_per_part = static_cast<int32_t>(std::min(tiles, kPartTiles));
  s.parts = static_cast<int32_t>(ceil_div(tiles, s.tiles_per_part));
  s.threads = static_cast<uint32_t>(g.block_q / cuda::kWarpRows * 32);
  return s;
}

DeviceWorkspace device_workspace(const Geometry& g, const DeviceShape& s, std::byte* base) {
  Cursor cursor(base);
  DeviceWorkspace w;
  const int64_t keys = g.key_heads * g.key_blocks * s.tiles_per_block * cuda::kTileKeys, size = keys * s.width;
  const bool softmax = g.mode != Mode::kLinearOnly;
  if (softmax) cursor.take(w.keys, size * cuda::key_bytes(s.products));
  if (!s.fp8 || s.linear) cursor.take(w.values, size * 2);
  if (s.fp8) cursor.take(w.values8, size);
  if (s.int8) cursor.take(w.key_scale, g.key_heads * g.key_blocks);
  if (s.fp8) {
    cursor.take(w.value_peaks, g.key_heads * g.key_blocks * s.width);
    cursor.take(w.value_scale, g.key_heads * s.width);
  }
  if (g.centred()) {
    cursor.take(w.means, g.key_heads * g.dim * s.mean_row);
    cursor.take(w.shift, g.key_heads * g.dim);
  }
  if (s.linear) {
    cursor.take(w.features, size * 2);
    cursor.take(w.z, g.key_heads * g.key_blocks * s.width);
    cursor.take(w.partial, g.key_heads * s.parts * s.width * s.width);
    cursor.take(w.state_total, g.key_heads * s.width * s.width);
    cursor.take(w.z_total, g.key_heads * 2 * s.width);
  }
  if (g.routed) {
    cursor.take(w.list, g.heads * g.query_blocks * g.max_kept);
    cursor.take(w.count, g.heads * g.query_blocks);
    if (g.mode == Mode::kSla2) cursor.take(w.rest_log_sum, g.heads * g.query_blocks);
  }
  w.bytes = cursor.used();
  return w;
}

}  // namespace sla2::attention
