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

/// What a plan on a GPU needs to know beside the geometry.
struct DeviceShape {
  cuda::Products products = cuda::Products::kBf16;
  int32_t width = 0;            ///< W: D rounded up to 64 or 128
  int32_t tiles_per_block = 1;  ///< key tiles of a key block
  int32_t mean_row = 0;         ///< T_n rounded up
  int32_t parts = 1;            ///< stretches of tiles whose states are summed apart
  int32_t tiles_per_part = 1;
  uint32_t threads = 0;  ///< of sla2_attend
  bool linear = false, int8 = false, fp8 = false;
};
[[nodiscard]] DeviceShape device_shape(const Geometry& geometry);

/// The attention kernel of a plan, where another family than mma.sync has one.
struct DeviceFamily {
  std::string kernel;
  uint32_t threads, shared_bytes;
};
/// The Hopper family (wgmma) on compute capability 9.0, for heads of 65 to 128 channels and query blocks of 128; SLA2_HOPPER=0 in
/// the environment leaves them to mma.sync, for comparison.
[[nodiscard]] std::optional<DeviceFamily> hopper_family(const Geometry& geometry, const DeviceShape& shape, int architecture);

/// Pointers into the workspace on the device; all of them for all heads.
struct DeviceWorkspace {
  unsigned char *keys = nullptr, *values = nullptr, *values8 = nullptr, *features = nullptr;
  float *means = nullptr, *shift = nullptr, *key_scale = nullptr, *value_peaks = nullptr, *value_scale = nullptr;
  float *z = nullptr, *partial = nullptr, *state_total = nullptr, *z_total = nullptr, *rest_log_sum = nullptr;
  int32_t *list = nullptr, *count = nullptr;
  uint64_t bytes = 0;
};
/// base null: only bytes is meant.
[[nodiscard]] DeviceWorkspace device_workspace(const Geometry& geometry, const DeviceShape& shape, std::byte* base);

}  // namespace sla2::attention
