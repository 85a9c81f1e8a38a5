// SPDX-License-Identifier: Apache-2.0
#include "gpu.h"

#include <cstdlib>
#include <cstring>

#include "core/core.h"
#include "cuda_emulator/kernels_table.h"
#include "device/device.h"

namespace sla2::check {
namespace {

/// Shared memory a block may have: CUDA C++ Programming Guide, "Technical Specifications per Compute Capability".
uint32_t shared_bytes_of(int architecture) {
  if (architecture == 90) return 227 * 1024;
  return architecture == 80 ? 163 * 1024 : 99 * 1024;
}

class Emulated final : public TestGpu {
 public:
  Emulated(int architecture, bool far) : gpu_(architecture, shared_bytes_of(architecture)), far_(far) {}
  void prepare(const char* kernel, uint32_t bytes) override { gpu_.prepare(kernel, bytes); }
  void launch(const device::Launch& l) override { gpu_.launch(l); }
  [[nodiscard]] int architecture() const noexcept override { return gpu_.architecture(); }
  [[nodiscard]] uint32_t multiprocessors() const noexcept override { return gpu_.multiprocessors(); }
  [[nodiscard]] uint32_t shared_bytes() const noexcept override { return gpu_.shared_bytes(); }
  void set_seed(uint64_t seed) override { gpu_.set_seed(seed), gpu_.set_multiprocessors(static_cast<uint32_t>(seed)); }
  [[nodiscard]] bool has_memory() const noexcept override { return far_; }
  void* allocate(uint64_t bytes) override { return std::aligned_alloc(256, (bytes + 255) / 256 * 256); }
  void release(void* memory) noexcept override { std::free(memory); }
  void copy_in(void* to, const void* from, uint64_t bytes) override { std::memcpy(to, from, bytes); }
  void copy_out(void* to, const void* from, uint64_t bytes) override { std::memcpy(to, from, bytes); }
  void* allocate_pinned(uint64_t bytes) override { return gpu_.allocate_pinned(bytes); }
  void release_pinned(void* memory) noexcept override { gpu_.release_pinned(memory); }

 private:
  emulator::EmulatedGpu gpu_;
  bool far_;
};

class Real final : public TestGpu {
 public:
  explicit Real(int number) : gpu_(device::Gpu::get(number)) {}
  void prepare(const char* kernel, uint32_t bytes) override { gpu_.prepare(kernel, bytes); }
  void launch(const device::Launch& l) override { gpu_.launch(l); }
  [[nodiscard]] int architecture() const noexcept override { return gpu_.architecture(); }
  [[nodiscard]] uint32_t multiprocessors() const noexcept override { return gpu_.multiprocessors(); }
  [[nodiscard]] uint32_t shared_bytes() const noexcept override { return gpu_.shared_bytes(); }
  [[nodiscard]] bool has_memory() const noexcept override { return true; }
  void* allocate(uint64_t bytes) override { return gpu_.allocate(bytes); }
  void release(void* memory) noexcept override { gpu_.release(memory); }
  void copy_in(void* to, const void* from, uint64_t bytes) override { gpu_.copy_in(to, from, bytes); }
  void copy_out(void* to, const void* from, uint64_t bytes) override { gpu_.copy_out(to, from, bytes); }
  void* allocate_pinned(uint64_t bytes) override { return gpu_.allocate_pinned(bytes); }
  void release_pinned(void* memory) noexcept override { gpu_.release_pinned(memory); }
  void wait(void* stream) override { gpu_.wait(stream); }

 private:
  device::Gpu& gpu_;
};

}  // namespace

std::shared_ptr<TestGpu> emulated_gpu(int architecture, bool far) { return std::make_shared<Emulated>(architecture, far); }
std::shared_ptr<TestGpu> real_gpu(int number) { return std::make_shared<Real>(number); }

std::shared_ptr<TestGpu> gpu_called(const std::string& word) {
  const size_t colon = word.find(':');
  const std::string kind = word.substr(0, colon), rest = colon == std::string::npos ? "" : word.substr(colon + 1);
  const bool number = !rest.empty() && rest.size() < 4 && rest.find_first_not_of("0123456789") == std::string::npos;
  if (kind == "gpu" && (rest.empty() || number)) return real_gpu(rest.empty() ? 0 : std::stoi(rest));
  if ((kind == "emulated" || kind == "far") && number) return emulated_gpu(std::stoi(rest), kind == "far");
  return nullptr;
}

Mirror::~Mirror() {
  for (const auto& [block, copy] : copies_) gpu_->release(copy.memory);
}

void* Mirror::copy_of(void* block, uint64_t bytes) {
  const auto found = copies_.find(block);
  if (found != copies_.end()) return found->second.memory;
  void* const memory = gpu_->allocate(bytes);
  copies_[block] = {memory, bytes};
  gpu_->copy_in(memory, block, bytes);
  return memory;
}

void Mirror::fetch() {
  if (gpu_ == nullptr) return;
  gpu_->wait(nullptr);
  for (const auto& [block, copy] : copies_) gpu_->copy_out(block, copy.memory, copy.bytes);
}

}  // namespace sla2::check
