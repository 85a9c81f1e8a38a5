// SPDX-License-Identifier: Apache-2.0
// Attention on a GPU: which configurations run there, where everything lies in the workspace, which kernels are started. Host
// code only; whether a driver or the emulator is behind the launcher makes no difference.
#pragma once
#include <optional>

#include "attention/geometry.h"
#include "kernels/cuda/params.h"
#include "kernels/cuda/tiles.h"

namespace sla2::attention {

/// Empty, or why the configuration does not run on a GPU of this architecture: one sentence with the field, its value, the
/// remedy.
[[nodiscard]] std::string device_refusal(const Config& config, int architecture);

/// Whether its mma.sync multiplies e4m3: Ada, consumer Blackwell.
[[nodiscard]] constexpr bool multiplies_e4m3(int architecture) { return architecture == 89 || architecture / 10 == 12; }

/// What a plan on a GPU needs to know beside the geometry.
struct DeviceShape {
  cuda::Products products = cuda::Products::kBf16;
  int32_t width = 0;            ///< W: D rounded up to 64 or 128
  int32_t tiles_per_block = 1;  ///< key tiles of a key block
  int32_t blocks_per_tile = 1;  ///< or the other way round
  int32_t key_tiles = 0;        ///< of a key head
  int32_t mean_tiles = 0;       ///< pooled mode: tiles of mean keys behind them
  int32_t scales = 0;           ///< int8: of a key head's blocks and mean tiles
  int32_t mean_row = 0;         ///< T_n rounded up
  int32_t parts = 1;            ///< stretches of tiles whose states are summed apart
  int32_t tiles_per_part = 1;
  uint32_t threads = 0;                      ///< of sla2_attend
  uint32_t stream_at = 0, shared_bytes = 0;  ///< of sla2_attend: where the linear branch's tiles arrive, all of it
  uint32_t probe_bytes = 0;                  ///< without a linear branch
  cuda::RouteMap route;
  bool linear = false, int8 = false, fp8 = false;
  bool half_sums = false;   ///< fp8: P·V sums a tile in fp16
  bool everywhere = false;  ///< the linear branch sees kept blocks as well
  bool drops = false;       ///< some blocks are in neither branch
  bool likeness = false;    ///< the router asks how alike the rows of blocks are
  bool pooled = false;      ///< mean keys take part in the softmax
  bool soft = false;        ///< a weight for each block instead of a list
  bool coarse = false;      ///< router vsa: there may be a gated coarse branch
};
[[nodiscard]] DeviceShape device_shape(const Geometry& geometry, int architecture);

/// The attention kernels of a plan where another family than mma.sync has them: the one that runs, and full attention for probes.
struct DeviceFamily {
  std::string attend, full;
  uint32_t threads, shared_bytes, probe_bytes;
};
/// The Hopper family (wgmma) takes, on compute capability 9.0, heads of 65 to 128 channels with query blocks of 128 and key
/// blocks of 64 or more, in every mode but sla1 and pooled, without soft masks; SLA2_HOPPER=0 in the environment leaves them to
/// mma.sync, for comparison.
[[nodiscard]] bool hopper_takes(const Config& config, int architecture);
[[nodiscard]] std::optional<DeviceFamily> hopper_family(const Geometry& geometry, const DeviceShape& shape, int architecture);

/// e4m3 products of mma.sync with fp16 sums: twice the rate of fp32 ones on consumer GPUs of compute capability
/// 8.9 and 12.0.
/// SLA2_FP8_SUMS=32 in the environment takes those with fp32 sums.
[[nodiscard]] bool sums_in_fp16(const Config& config, int architecture);

/// Pointers into the workspace on the device; all of them for all heads.
struct DeviceWorkspace {
  unsigned char *keys = nullptr, *values = nullptr, *values8 = nullptr, *features = nullptr;
  float *means = nullptr, *shift = nullptr, *key_scale = nullptr, *value_peaks = nullptr, *value_scale = nullptr;
  float *z = nullptr, *partial = nullptr, *state_total = nullptr, *z_total = nullptr, *rest_log_sum = nullptr;
  float *value_means = nullptr, *mean_keys = nullptr, *coarse = nullptr, *linear_shares = nullptr, *probe = nullptr;
  float* soft = nullptr;
  uint32_t* kept_bits = nullptr;
  double* likeness = nullptr;
  int32_t *list = nullptr, *count = nullptr, *apart = nullptr, *apart_count = nullptr;
  uint64_t bytes = 0;
};
/// base null: only bytes is meant.
[[nodiscard]] DeviceWorkspace device_workspace(const Geometry& geometry, const DeviceShape& shape, std::byte* base);

/// What the parameters of a call's kernels are made from.
struct DeviceCall {
  const Geometry& geometry;
  const DeviceShape& shape;
  const DeviceWorkspace& workspace;
  const Forward& in;
  bool route_only;
};
[[nodiscard]] cuda::PoolParams pool_params(const DeviceCall& call);
[[nodiscard]] cuda::CentreParams centre_params(const DeviceCall& call);
[[nodiscard]] cuda::LikenessParams likeness_params(const DeviceCall& call);
[[nodiscard]] cuda::RouteParams route_params(const DeviceCall& call);
[[nodiscard]] cuda::PackParams pack_params(const DeviceCall& call);
[[nodiscard]] cuda::PackParams pack_means_params(const DeviceCall& call);
[[nodiscard]] cuda::AttendParams attend_params(const DeviceCall& call);
/// Full attention on `probes` query blocks of each head, against what stands in out.
[[nodiscard]] cuda::AttendParams probe_params(const DeviceCall& call, int64_t probes);
/// probes: 0 where there was no probe.
[[nodiscard]] cuda::SummaryParams summary_params(const DeviceCall& call, int64_t probes, cuda::Summary* out);

}  // namespace sla2::attention
