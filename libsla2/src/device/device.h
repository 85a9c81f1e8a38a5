// SPDX-License-Identifier: Apache-2.0
// The door of the device room: GPUs through the CUDA driver, which is opened at run time. Without one everything here says so and
// nothing else changes.
#pragma once
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

/// A GPU by its number. Modules are loaded when first asked for and kept while the object lives; any number of threads.
class Gpu : public Launcher {
 public:
  /// One object per GPU for the whole process, made when first asked for. Throws SLA2_E_DEVICE with what is missing.
  [[nodiscard]] static Gpu& get(int number);

  // Memory and time, for tests and benchmarks; attention itself never allocates or waits.
  [[nodiscard]] virtual void* allocate(uint64_t bytes) = 0;
  virtual void release(void* memory) noexcept = 0;
  virtual void copy_in(void* to, const void* from, uint64_t bytes) = 0;   ///< waits
  virtual void copy_out(void* to, const void* from, uint64_t bytes) = 0;  ///< waits
  void* allocate_pinned(uint64_t bytes) override = 0;
  void release_pinned(void* memory) noexcept override = 0;
  void wait(void* stream) override = 0;
};

}  // namespace sla2::device
