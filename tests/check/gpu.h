// SPDX-License-Identifier: Apache-2.0
// GPUs that run cases: under the emulator, whose memory is the host's, or real ones, whose memory holds copies.
#pragma once
#include <map>
#include <memory>
#include <string>

#include "device/launch.h"

namespace sla2::check {

class TestGpu : public device::Launcher {
 public:
  /// Of the order in which threads run, and as many multiprocessors, where somebody decides it.
  virtual void set_seed(uint64_t) {}
  /// Whether calls take pointers into memory of its own.
  [[nodiscard]] virtual bool has_memory() const noexcept { return false; }
  [[nodiscard]] virtual void* allocate(uint64_t bytes) = 0;
  virtual void release(void* memory) noexcept = 0;
  virtual void copy_in(void* to, const void* from, uint64_t bytes) = 0;
  virtual void copy_out(void* to, const void* from, uint64_t bytes) = 0;
};

/// far: calls get copies, as on a real GPU, so that copying there and back is tested too.
[[nodiscard]] std::shared_ptr<TestGpu> emulated_gpu(int architecture, bool far = false);
/// Throws SLA2_E_DEVICE with what is missing.
[[nodiscard]] std::shared_ptr<TestGpu> real_gpu(int number);
/// "gpu", "gpu:N", "emulated:80", "far:80"; null: none of these words.
[[nodiscard]] std::shared_ptr<TestGpu> gpu_called(const std::string& word);

/// Copies of host memory for one call; without a GPU, or on one that uses the host's memory, that memory itself.
class Mirror {
 public:
  explicit Mirror(TestGpu* gpu) : gpu_(gpu != nullptr && gpu->has_memory() ? gpu : nullptr) {}
  ~Mirror();
  Mirror(const Mirror&) = delete;
  Mirror& operator=(const Mirror&) = delete;

  /// Where the call finds `data`, which lies in `bytes` bytes from `block` on; all of these are copied at the first mention.
  template <typename T>
  [[nodiscard]] T* at(T* data, const void* block, uint64_t bytes) {
    if (gpu_ == nullptr || data == nullptr) return data;
    const auto offset = reinterpret_cast<const char*>(data) - static_cast<const char*>(block);
    return reinterpret_cast<T*>(static_cast<char*>(copy_of(const_cast<void*>(block), bytes)) + offset);
  }
  /// After the call: waits, and every block holds what its copy holds.
  void fetch();

 private:
  struct Copy {
    void* memory;
    uint64_t bytes;
  };
  void* copy_of(void* block, uint64_t bytes);
  TestGpu* gpu_;
  std::map<void*, Copy> copies_;
};

}  // namespace sla2::check
