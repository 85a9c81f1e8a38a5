// SPDX-License-Identifier: Apache-2.0
// The kernels linked into a program, by name; and the launcher that runs them on the host.
#pragma once
#include <string_view>

#include "block.h"
#include "device/launch.h"

namespace sla2::emulator {

struct Kernel {
  KernelBody body;
  size_t params_bytes;
  uint32_t threads;  ///< most
};

/// Enters a kernel under its name when the program starts.
struct Registered {
  Registered(const char* name, KernelBody body, size_t params_bytes, uint32_t threads);
};
/// Throws SLA2_E_INTERNAL where there is none.
[[nodiscard]] const Kernel& find_kernel(std::string_view name);

/// A GPU of some architecture, on this machine's threads. Each launch runs to its end; what a block complains of is thrown.
class EmulatedGpu final : public device::Launcher {
 public:
  EmulatedGpu(int architecture, uint32_t shared_bytes) : architecture_(architecture), shared_bytes_(shared_bytes) {}
  void prepare(const char* kernel, uint32_t shared_bytes) override;
  void launch(const device::Launch& launch) override;
  [[nodiscard]] void* allocate_pinned(uint64_t bytes) override;
  void release_pinned(void* memory) noexcept override;
  [[nodiscard]] int architecture() const noexcept override { return architecture_; }
  [[nodiscard]] uint32_t shared_bytes() const noexcept override { return shared_bytes_; }
  [[nodiscard]] uint32_t multiprocessors() const noexcept override { return multiprocessors_; }
  void set_seed(uint64_t seed) { seed_ = seed; }  ///< of the order of threads
  void set_multiprocessors(uint32_t count) { multiprocessors_ = count; }

 private:
  int architecture_;
  uint32_t shared_bytes_;
  uint64_t seed_ = 1;
  uint32_t multiprocessors_ = 3;  ///< few: blocks of threads that stay have several turns
};

}  // namespace sla2::emulator
