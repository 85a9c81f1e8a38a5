// SPDX-License-Identifier: Apache-2.0
// Time on a GPU, call by call and kernel by kernel; and what the driver says of a kernel and of the device.
#pragma once
#include <map>
#include <string>
#include <vector>

#include "check/gpu.h"

namespace sla2::gpu_check {

/// Marks in the default stream: events on a real GPU, the clock where launches run to their end.
class Marks {
 public:
  explicit Marks(int gpu);  ///< its number; -1: launches run to their end
  ~Marks();
  Marks(const Marks&) = delete;
  Marks& operator=(const Marks&) = delete;
  /// @return its number; numbers count from 0 again after milliseconds() of the last one.
  size_t set();
  /// From mark `first` to `second`, both passed; waits for the second.
  [[nodiscard]] double milliseconds(size_t first, size_t second);
  void clear() { next_ = 0; }

 private:
  int gpu_;
  size_t next_ = 0;
  std::vector<void*> events_;
  std::vector<double> times_;
};

/// Launches pass through; while `recording`, a mark stands on either side of each.
class TimedGpu final : public device::Launcher {
 public:
  TimedGpu(check::TestGpu& gpu, Marks& marks) : gpu_(gpu), marks_(marks) {}
  void prepare(const char* kernel, uint32_t bytes) override {
    gpu_.prepare(kernel, bytes);
    prepared_[kernel] = std::max(prepared_[kernel], bytes);
  }
  void launch(const device::Launch& l) override;
  void* allocate_pinned(uint64_t bytes) override { return gpu_.allocate_pinned(bytes); }
  void release_pinned(void* memory) noexcept override { gpu_.release_pinned(memory); }
  void wait(void* stream) override { gpu_.wait(stream); }
  [[nodiscard]] int architecture() const noexcept override { return gpu_.architecture(); }
  [[nodiscard]] uint32_t multiprocessors() const noexcept override { return gpu_.multiprocessors(); }
  [[nodiscard]] uint32_t shared_bytes() const noexcept override { return gpu_.shared_bytes(); }

  struct Span {
    std::string kernel;
    size_t first, second;
  };
  bool recording = false;
  std::vector<Span> spans;
  /// Dynamic shared memory of every kernel that plans have asked for.
  [[nodiscard]] const std::map<std::string, uint32_t>& prepared() const { return prepared_; }

 private:
  check::TestGpu& gpu_;
  Marks& marks_;
  std::map<std::string, uint32_t> prepared_;
};

/// cuFuncGetAttribute of a kernel of this library.
struct KernelUse {
  int registers = 0, static_shared = 0, local_bytes = 0, most_threads = 0, binary = 0;
};
/// Throws SLA2_E_DEVICE.
[[nodiscard]] KernelUse kernel_use(int gpu, const char* kernel);

struct DeviceFacts {
  std::string name;
  int architecture = 0, multiprocessors = 0, driver = 0, clock_khz = 0, memory_clock_khz = 0, bus_bits = 0, l2_bytes = 0,
      shared_per_multiprocessor = 0, shared_per_block = 0, registers_per_multiprocessor = 0;
  uint64_t memory_bytes = 0;
};
[[nodiscard]] DeviceFacts device_facts(int gpu);

}  // namespace sla2::gpu_check
