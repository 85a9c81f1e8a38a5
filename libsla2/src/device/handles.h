// SPDX-License-Identifier: Apache-2.0
// Owners of a GPU's memory, streams and events: given back when they go. The GPU outlives them.
#pragma once
#include <utility>

#include "device/device.h"

namespace sla2::device {

/// One kind of thing of a GPU, by pointer; made by `make`, given back by `give_back`.
template <void (Gpu::*kGiveBack)(void*) noexcept>
class Owned {
 public:
  Owned() = default;
  Owned(Gpu& gpu, void* handle) : gpu_(&gpu), handle_(handle) {}
  Owned(Owned&& other) noexcept : gpu_(other.gpu_), handle_(std::exchange(other.handle_, nullptr)) {}
  Owned& operator=(Owned&& other) noexcept {
    std::swap(gpu_, other.gpu_);
    std::swap(handle_, other.handle_);
    return *this;
  }
  Owned(const Owned&) = delete;
  Owned& operator=(const Owned&) = delete;
  ~Owned() {
    if (handle_ != nullptr) (gpu_->*kGiveBack)(handle_);
  }
  [[nodiscard]] void* get() const noexcept { return handle_; }
  [[nodiscard]] explicit operator bool() const noexcept { return handle_ != nullptr; }

 private:
  Gpu* gpu_ = nullptr;
  void* handle_ = nullptr;
};

class Stream : public Owned<&Gpu::destroy_stream> {
 public:
  Stream() = default;
  explicit Stream(Gpu& gpu) : Owned(gpu, gpu.create_stream()) {}
};
class Event : public Owned<&Gpu::destroy_event> {
 public:
  Event() = default;
  explicit Event(Gpu& gpu) : Owned(gpu, gpu.create_event()) {}
};

/// Bytes on the GPU. Zero bytes are no memory.
class Buffer : public Owned<&Gpu::release> {
 public:
  Buffer() = default;
  Buffer(Gpu& gpu, uint64_t bytes) : Owned(gpu, bytes == 0 ? nullptr : gpu.allocate(bytes)), bytes_(bytes) {}
  template <typename T = std::byte>
  [[nodiscard]] T* at(uint64_t offset = 0) const noexcept {
    return reinterpret_cast<T*>(static_cast<std::byte*>(get()) + offset);
  }
  [[nodiscard]] uint64_t bytes() const noexcept { return bytes_; }

 private:
  uint64_t bytes_ = 0;
};
/// Bytes of this machine's memory that the GPU reads by itself.
class PinnedBuffer : public Owned<&Gpu::release_pinned> {
 public:
  PinnedBuffer() = default;
  PinnedBuffer(Gpu& gpu, uint64_t bytes) : Owned(gpu, bytes == 0 ? nullptr : gpu.allocate_pinned(bytes)), bytes_(bytes) {}
  [[nodiscard]] std::byte* data() const noexcept { return static_cast<std::byte*>(get()); }
  [[nodiscard]] uint64_t bytes() const noexcept { return bytes_; }

 private:
  uint64_t bytes_ = 0;
};

}  // namespace sla2::device
