// SPDX-License-Identifier: Apache-2.0
#include "kernels_table.h"

#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <string>

#include "core/core.h"

namespace sla2::emulator {
namespace {

std::map<std::string, Kernel, std::less<>>& table() {
  static std::map<std::string, Kernel, std::less<>> kernels;
  return kernels;
}

}  // namespace

Registered::Registered(const char* name, KernelBody body, size_t params_bytes, uint32_t threads) {
  table()[name] = {body, params_bytes, threads};
}

const Kernel& find_kernel(std::string_view name) {
  const auto found = table().find(name);
  SLA2_CHECK(found != table().end(), SLA2_E_INTERNAL, "emulator: no kernel is called {}", name);
  return found->second;
}

void EmulatedGpu::prepare(const char* kernel, uint32_t shared_bytes) {
  (void)find_kernel(kernel);
  SLA2_CHECK(shared_bytes <= shared_bytes_, SLA2_E_INTERNAL, "emulator: {} asks for {} bytes of shared memory; a block has {}",
             kernel, shared_bytes, shared_bytes_);
}

void* EmulatedGpu::allocate_pinned(uint64_t bytes) { return ::operator new(bytes); }
void EmulatedGpu::release_pinned(void* memory) noexcept { ::operator delete(memory); }

void EmulatedGpu::launch(const device::Launch& launch) {
  const Kernel& kernel = find_kernel(launch.kernel);
  SLA2_CHECK(launch.params_bytes == kernel.params_bytes, SLA2_E_INTERNAL, "emulator: {} takes {} bytes of parameters, got {}",
             launch.kernel, kernel.params_bytes, launch.params_bytes);
  SLA2_CHECK(launch.threads <= kernel.threads && launch.shared_bytes <= shared_bytes_ && launch.grid_y <= 65535, SLA2_E_INTERNAL,
             "emulator: {}: {} threads (at most {}), {} bytes of shared memory (at most {}), {} blocks along y (at most 65535)",
             launch.kernel, launch.threads, kernel.threads, launch.shared_bytes, shared_bytes_, launch.grid_y);
  std::mutex guard;
  std::string error;
  const Index3 grid{launch.grid_x, launch.grid_y, 1};
  parallel_for(static_cast<int64_t>(grid.x) * grid.y, [&](int64_t index, int) {
    thread_local std::unique_ptr<Block> block;
    if (!block) block = std::make_unique<Block>();
    const auto at = static_cast<uint32_t>(index);
    const std::string wrong = block->run({kernel.body,
                                          launch.params,
                                          {at % grid.x, at / grid.x, 0},
                                          grid,
                                          launch.threads,
                                          launch.shared_bytes,
                                          seed_ + static_cast<uint64_t>(index)});
    const std::lock_guard<std::mutex> lock(guard);
    if (error.empty()) error = wrong;
  });
  SLA2_CHECK(error.empty(), SLA2_E_DEVICE, "emulator: {}: {}", launch.kernel, error);
}

}  // namespace sla2::emulator
