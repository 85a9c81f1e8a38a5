// SPDX-License-Identifier: Apache-2.0
// Hands out 64-byte aligned pieces of one block of memory; with a null base it only counts.
#pragma once
#include <cstddef>
#include <cstdint>

namespace sla2::attention {

class Cursor {
 public:
  explicit Cursor(std::byte* base) : base_(base) {}
  template <typename T>
  void take(T*& target, int64_t count) {
    target = base_ == nullptr ? nullptr : reinterpret_cast<T*>(base_ + used_);
    const uint64_t bytes = static_cast<uint64_t>(count) * sizeof(T);
    used_ += (bytes + kAlignment - 1) / kAlignment * kAlignment;
  }
  [[nodiscard]] uint64_t used() const { return used_; }

 private:
  static constexpr uint64_t kAlignment = 64;
  std::byte* base_;
  uint64_t used_ = 0;
};

}  // namespace sla2::attention
