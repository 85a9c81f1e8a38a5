// SPDX-License-Identifier: Apache-2.0
// Shared memory of one block with a shadow: who wrote and read each word last, and when. Order between warps comes from barriers
// (one clock per warp, vector clocks joined at barriers), within a warp from sync_warp. An access that no order separates from
// another thread's write is a race; a read of bytes still on their way is a missing wait.
#pragma once
#include <array>
#include <cstdint>
#include <string>
#include <vector>

namespace sla2::emulator {

inline constexpr uint32_t kLanes = 32, kMaxWarps = 12;
/// Bulk copies are done by an engine that has a clock of its own, as if it were one more warp.
inline constexpr uint32_t kEngine = kMaxWarps, kClocks = kMaxWarps + 1;
using Clocks = std::array<uint32_t, kClocks>;
inline constexpr unsigned char kPoison = 0xFF;  ///< a NaN of fp32, bf16 and e4m3; -1 as an integer

/// Who accesses: its warp's clock and step count, and what that warp knows of the others.
struct Accessor {
  uint32_t thread, step;
  const Clocks* known;  ///< [own warp]: its clock
};

class SharedMemory {
 public:
  /// A new block: everything poisoned, nobody was here.
  void reset(uint32_t bytes);
  /// Empty, or what is wrong with the access.
  [[nodiscard]] std::string read(uint32_t at, uint32_t bytes, const Accessor& who);
  [[nodiscard]] std::string write(uint32_t at, uint32_t bytes, const Accessor& who);
  /// The start of an asynchronous copy: a write whose bytes may not be looked at before finish().
  [[nodiscard]] std::string start_copy(uint32_t at, uint32_t bytes, const Accessor& who);
  void finish_copy(uint32_t at, const void* from, uint32_t bytes, const Accessor& who);
  /// The engines read what threads stored only after a fence of the thread that did.
  void fence(uint32_t thread) { ++fences_[thread]; }
  [[nodiscard]] std::string read_by_engine(uint32_t at, uint32_t bytes, const Accessor& who);
  [[nodiscard]] unsigned char* at(uint32_t offset) { return bytes_.data() + offset; }
  [[nodiscard]] uint32_t size() const { return static_cast<uint32_t>(bytes_.size()); }

 private:
  static constexpr uint32_t kWord = 2 /* bytes: the smallest access */, kNobody = 0xFFFFFFFFU;
  struct Word {
    uint32_t writer = kNobody, write_clock = 0, write_step = 0;
    uint32_t reader = kNobody, read_step = 0;
    uint32_t pending = kNobody;  ///< thread whose copy is under way
    uint32_t fences = 0;         ///< of the writer, when it wrote
    std::array<uint32_t, kMaxWarps> read_clock{};
  };
  [[nodiscard]] std::string outside(const char* what, uint32_t at, uint32_t bytes) const;
  [[nodiscard]] static std::string after_write(const char* what, uint32_t at, const Word& word, const Accessor& who);

  std::vector<unsigned char> bytes_;
  std::vector<Word> words_;
  std::array<uint32_t, kMaxWarps * kLanes> fences_{};
};

}  // namespace sla2::emulator
