// SPDX-License-Identifier: Apache-2.0
// One thread block: a fibre per thread, run in random order until all are done. Warp-wide instructions are rendezvous of 32
// lanes, the last of which executes for all; barriers join clocks; asynchronous copies happen at their wait. What goes wrong ends
// the block with a sentence (error()).
#pragma once
#include <cstddef>
#include <deque>
#include <string>
#include <vector>

#include "fiber.h"
#include "shared_memory.h"

namespace sla2::emulator {

struct Index3 {
  uint32_t x, y, z;
};
using KernelBody = void (*)(const void* params);

struct BlockLaunch {
  KernelBody body;
  const void* params;
  Index3 block, grid;
  uint32_t threads, shared_bytes;
  uint64_t seed;  ///< of the order in which threads run
};

class Block {
 public:
  static Block& current();  ///< the block that the calling fibre belongs to
  /// Runs to the end. @return empty, or what went wrong
  std::string run(const BlockLaunch& launch);

  // What follows is called from fibres.
  [[nodiscard]] const BlockLaunch& launch() const { return launch_; }
  [[nodiscard]] uint32_t thread() const { return running_; }
  /// All lanes of a warp meet; `execute` runs once, with what each lane brought.
  using Execute = void (*)(void* const* lanes);
  void collective(const char* what, void* mine, Execute execute);
  void sync_warp();
  /// bar.sync id, threads.
  void barrier(uint32_t id, uint32_t threads);
  void copy_async(uint32_t to, const void* from, uint32_t bytes);
  void copy_async_commit();
  void copy_async_wait(uint32_t groups_left);
  void check_read(uint32_t at, uint32_t bytes) { stop_if(shared_.read(at, bytes, accessor())); }
  void check_write(uint32_t at, uint32_t bytes) { stop_if(shared_.write(at, bytes, accessor())); }
  [[nodiscard]] unsigned char* shared(uint32_t at) { return shared_.at(at); }
  [[noreturn]] void stop(std::string why);  ///< ends the block

 private:
  struct Copy {
    uint32_t to, bytes;
    const void* from;
  };
  struct Thread {
    Fiber fiber;
    Block* block = nullptr;
    std::vector<Copy> open;                ///< issued, not committed
    std::deque<std::vector<Copy>> groups;  ///< committed, oldest first
  };
  struct Warp {
    const char* what = nullptr;  ///< what the lanes that have arrived are at
    Execute execute = nullptr;
    uint32_t arrived = 0;
    void* operands[kLanes] = {};
    bool present[kLanes] = {};
    uint32_t step = 1;  ///< counts sync_warp
    std::array<uint32_t, kMaxWarps> known{};
  };
  struct Barrier {
    uint32_t threads = 0, arrived = 0;
    std::vector<uint32_t> warps;
  };
  static constexpr uint32_t kBarriers = 16;

  static void enter(void* thread);
  [[nodiscard]] Accessor accessor() const;
  void stop_if(std::string why) {
    if (!why.empty()) stop(std::move(why));
  }
  void suspend();  ///< until somebody makes this thread ready
  /// @return whether the caller is the last lane; the others sleep until release_warp
  bool meet(const char* what, void* mine, Execute execute);
  void release_warp(uint32_t warp, uint32_t except);
  [[nodiscard]] std::string deadlock() const;

  BlockLaunch launch_{};
  SharedMemory shared_;
  std::vector<Thread> threads_;
  std::vector<Warp> warps_;
  std::array<Barrier, kBarriers> barriers_;
  std::vector<uint32_t> ready_;
  uint32_t running_ = 0, live_ = 0;
  uint64_t random_ = 1;
  void* scheduler_ = nullptr;
  std::string error_;
};

}  // namespace sla2::emulator
