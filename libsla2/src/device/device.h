// SPDX-License-Identifier: Apache-2.0
// The door of the device room: GPUs through the CUDA driver, which is opened at run time. Without one everything here says so and
// nothing else changes.
#pragma once
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "device/launch.h"

namespace sla2::device {

struct GpuInfo {
  std::string name;
  int architecture = 0;  ///< compute capability times ten
  uint64_t memory_bytes = 0;
  uint32_t multiprocessors = 0;
};

/// What this machine offers, and what is missing.
struct Report {
  bool kernels_built = false;  ///< this library carries CUDA kernels
  bool driver_found = false;   ///< libcuda could be opened and started
  int driver_version = 0;      ///< 1000 · major + 10 · minor, of the CUDA version it supports
  std::vector<GpuInfo> gpus;
  std::string missing;  ///< one sentence, empty where GPUs can be used
};
/// Looks once per process. Never throws.
[[nodiscard]] const Report& report();

/// A kernel module, embedded: a fat binary of all architectures.
struct Module {
  const char* name;
  const unsigned char* image;
};
/// Empty where the library was built without CUDA.
[[nodiscard]] std::span<const Module> embedded_modules() noexcept;

/// Bytes of a GPU's memory.
struct MemoryInfo {
  uint64_t free = 0, total = 0;
};

/// A GPU: kernels, memory, and work in order. Streams and events are CUstream and CUevent. Any number of threads. Tests put an
/// emulated one in its place.
class Gpu : public Launcher {
 public:
  /// One object per GPU for the whole process, made when first asked for; its modules are kept while it lives. Throws
  /// SLA2_E_DEVICE with what is missing.
  [[nodiscard]] static Gpu& get(int number);

  [[nodiscard]] virtual const GpuInfo& info() const noexcept = 0;
  [[nodiscard]] virtual MemoryInfo memory() const = 0;

  /// Throws SLA2_E_MEMORY where there is not that much, SLA2_E_DEVICE where the GPU fails.
  [[nodiscard]] virtual void* allocate(uint64_t bytes) = 0;
  virtual void release(void* memory) noexcept = 0;
  /// Memory of this machine that the GPU reads while the CPU goes on. Throws SLA2_E_MEMORY.
  [[nodiscard]] void* allocate_pinned(uint64_t bytes) override = 0;
  void release_pinned(void* memory) noexcept override = 0;

  virtual void copy_in(void* to, const void* from, uint64_t bytes) = 0;   ///< waits
  virtual void copy_out(void* to, const void* from, uint64_t bytes) = 0;  ///< waits
  // Queued: `from` and `to` must live until the stream is there. Pinned memory alone is read without the CPU's help.
  virtual void queue_copy_in(void* to, const void* from, uint64_t bytes, void* stream) = 0;
  virtual void queue_copy_out(void* to, const void* from, uint64_t bytes, void* stream) = 0;
  virtual void queue_fill(void* to, unsigned char byte, uint64_t bytes, void* stream) = 0;

  /// Not ordered with the default stream.
  [[nodiscard]] virtual void* create_stream() = 0;
  virtual void destroy_stream(void* stream) noexcept = 0;
  void wait(void* stream) override = 0;  ///< throws what went wrong on it
  [[nodiscard]] virtual void* create_event() = 0;
  virtual void destroy_event(void* event) noexcept = 0;
  virtual void record(void* event, void* stream) = 0;
  /// What is queued on the stream from here on runs after what was before the event's last record.
  virtual void wait_in_stream(void* stream, void* event) = 0;
  virtual void wait_for(void* event) = 0;
  /// NVIDIA's own libraries work on it; not on an emulated one.
  [[nodiscard]] virtual bool takes_libraries() const noexcept = 0;
  /// `body` with this GPU's context current on the calling thread: for libraries that ask for it.
  virtual void run_current(const std::function<void()>& body) = 0;
  /// Between two events that have been waited for.
  [[nodiscard]] virtual double seconds_between(void* first, void* second) = 0;
};

}  // namespace sla2::device

#include "device/frame_ops.h"
#include "device/handles.h"
#include "device/layer_store.h"
#include "device/ops.h"
#include "device/text_ops.h"
