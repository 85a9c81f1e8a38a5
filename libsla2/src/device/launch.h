// SPDX-License-Identifier: Apache-2.0
// How kernels are started: a name, a grid, one struct of parameters. The driver does it for GPUs, the emulator of
// tests/cuda_emulator for tests.
#pragma once
#include <cstddef>
#include <cstdint>

namespace sla2::device {

struct Launch {
  const char* kernel;       ///< its extern "C" name
  uint32_t grid_x, grid_y;  ///< blocks
  uint32_t threads;         ///< in a block
  uint32_t shared_bytes;    ///< of a block
  const void* params;       ///< copied by the call
  size_t params_bytes;
  void* stream;  ///< CUstream; null: the default one
};

class Launcher {
 public:
  virtual ~Launcher() = default;
  /// Load the kernel's module and allow that much shared memory, so that launch() does neither: plans do it when they are made,
  /// and calls may then be captured into a CUDA graph. Throws SLA2_E_DEVICE.
  virtual void prepare(const char* kernel, uint32_t shared_bytes) = 0;
  /// Queue the kernel on its stream: no allocation, no waiting, the current context as it was. Throws SLA2_E_DEVICE.
  virtual void launch(const Launch& launch) = 0;
  /// Words that kernels write and the host reads; null where there are none. Plans keep what they say of their last call there.
  [[nodiscard]] virtual void* allocate_pinned(uint64_t) { return nullptr; }
  virtual void release_pinned(void*) noexcept {}
  /// Until everything queued on the stream is done.
  virtual void wait(void*) {}
  /// Compute capability times ten: 80, 86, 89, 90, 120.
  [[nodiscard]] virtual int architecture() const noexcept = 0;
  /// How many blocks of threads can run at once where one fills a multiprocessor.
  [[nodiscard]] virtual uint32_t multiprocessors() const noexcept = 0;
  /// Most shared memory a block may have.
  [[nodiscard]] virtual uint32_t shared_bytes() const noexcept = 0;
};

/// Queue a kernel with its one parameter; a grid of nothing is nothing.
template <typename Params>
void start(Launcher& gpu, const char* kernel, int64_t grid_x, int64_t grid_y, uint32_t threads, uint32_t shared_bytes,
           const Params& params, void* stream) {
  if (grid_x == 0 || grid_y == 0) return;
  gpu.launch({kernel, static_cast<uint32_t>(grid_x), static_cast<uint32_t>(grid_y), threads, shared_bytes, &params, sizeof params,
              stream});
}

}  // namespace sla2::device
