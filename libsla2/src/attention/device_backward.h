// SPDX-License-Identifier: Apache-2.0
// The gradients of attention on a GPU: two passes, each in a fixed order and without atomics. The queries' pass makes the row
// statistics, dQ and what the keys need of the linear branch; the keys' pass reads the lists by columns and makes dK and dV.
// Kernels and formulas: docs/kernels/cuda.md, docs/numerics.md.
#pragma once
#include <string>

#include "attention/device_plan.h"
#include "device/device.h"
#include "kernels/cuda/backward_params.h"

namespace sla2::attention {

/// Pointers into the backward's workspace; P rows of query tiles, see backward_params.h.
struct DeviceBackwardWorkspace {
  unsigned char *keys = nullptr, *values = nullptr, *features = nullptr;      ///< tiles of K − μ, V, φ(K)
  unsigned char *queries = nullptr, *gradients = nullptr, *shares = nullptr;  ///< tiles of Q, dO, (1 − a)·φ(Q) / denominator
  float *means = nullptr, *shift = nullptr, *rest_log_sum = nullptr;
  float *z = nullptr, *partial = nullptr, *state_total = nullptr, *z_total = nullptr;
  float *d_z = nullptr, *d_floor = nullptr, *d_state_total = nullptr, *d_z_total = nullptr, *floor_total = nullptr;
  cuda::Statistics rows{};
  float *d_queries = nullptr, *d_keys = nullptr, *d_values = nullptr;
  float *columns = nullptr, *mean_gradient = nullptr, *d_mix = nullptr;
  int32_t *begin = nullptr, *index = nullptr;
  uint64_t bytes = 0;
};

class DeviceBackward {
 public:
  /// Loads the kernels, if the configuration's gradients are built. `geometry` is one that device_refusal accepts.
  DeviceBackward(device::Launcher& gpu, const Geometry& geometry);
  [[nodiscard]] uint64_t workspace_bytes() const noexcept { return bytes_; }
  /// Queues the kernels on the call's stream. Throws UNSUPPORTED with the reason, or ARGUMENT.
  void run(const Backward& call, void* workspace);

 private:
  [[nodiscard]] DeviceBackwardWorkspace make_workspace(std::byte* base) const;
  void prepare();
  void check(const Backward& in, const void* workspace) const;
  template <typename Params>
  void start(const std::string& kernel, int64_t grid_x, int64_t grid_y, uint32_t threads, uint32_t shared, const Params& params);

  void prepare_keys(const Backward& in, const DeviceBackwardWorkspace& w);
  void pack_queries(const Backward& in, const DeviceBackwardWorkspace& w);
  void add_totals(const DeviceBackwardWorkspace& w, bool of_queries);
  void transpose(const Backward& in, const DeviceBackwardWorkspace& w);
  void queries(const Backward& in, const DeviceBackwardWorkspace& w);
  void keys(const Backward& in, const DeviceBackwardWorkspace& w);
  void store_keys(const Backward& in, const DeviceBackwardWorkspace& w);
  void parameters(const Backward& in, const DeviceBackwardWorkspace& w);
  [[nodiscard]] cuda::AttendParams attend_params(const Backward& in, const DeviceBackwardWorkspace& w) const;
  [[nodiscard]] cuda::Columns columns(const DeviceBackwardWorkspace& w) const;
  [[nodiscard]] std::string kernel(const char* name) const { return name + std::to_string(shape_.width); }

  device::Launcher& gpu_;
  Geometry geometry_;
  DeviceShape shape_;
  std::string refusal_;      ///< why there are no gradients, or empty
  bool centred_ = false;     ///< the softmax runs on K minus its mean
  int32_t query_tiles_ = 0;  ///< P / 64
  int32_t query_parts_ = 1, query_tiles_per_part_ = 1;
  uint64_t bytes_ = 0;
  void* stream_ = nullptr;
};

}  // namespace sla2::attention
