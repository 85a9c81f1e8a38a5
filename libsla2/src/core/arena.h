// SPDX-License-Identifier: Apache-2.0
// A static activation plan: name the buffers and their lifetimes once, get offsets into one block.
// The plan is known before anything is allocated, so it can be printed and compared with the memory there is.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "core/tensor_view.h"

namespace sla2 {

/// Buffers with lifetimes [first, last] in plan steps; two buffers share bytes only if their lifetimes do not meet.
class MemoryPlan {
 public:
  /// @return the index to ask `offset` for. Bytes are rounded up to 64.
  size_t add(std::string name, uint64_t bytes, int first_step, int last_step);
  /// First-fit by decreasing size; call once after the last add.
  void solve();
  [[nodiscard]] uint64_t offset(size_t index) const { return entries_[index].offset; }
  [[nodiscard]] uint64_t total_bytes() const noexcept { return total_; }
  /// One line per buffer: offset, bytes, lifetime, name.
  [[nodiscard]] std::string to_text() const;

 private:
  struct Entry {
    std::string name;
    uint64_t bytes;
    int first, last;
    uint64_t offset;
  };
  std::vector<Entry> entries_;
  uint64_t total_ = 0;
};

/// The block behind a solved plan. Not thread-safe; one per job.
class Arena {
 public:
  Arena() = default;
  explicit Arena(uint64_t bytes) : block_(bytes) {}
  template <typename T>
  [[nodiscard]] T* at(uint64_t offset) {
    return reinterpret_cast<T*>(block_.data() + offset);
  }
  [[nodiscard]] uint64_t bytes() const noexcept { return block_.size(); }

 private:
  AlignedBuffer<std::byte> block_;
};

}  // namespace sla2
