// SPDX-License-Identifier: Apache-2.0
// One thread block: a fibre per thread, run in random order until all are done. Warp-wide instructions are rendezvous of 32
// lanes, the last of which executes for all; barriers join clocks; asynchronous copies happen at their wait. What goes wrong ends
// the block with a sentence (error()).
#pragma once
#include <cstddef>
#include <deque>
#include <map>
#include <memory>
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

  // Hopper's asynchronous machinery; block_async.cpp.
  void arrivals_init(uint32_t at, uint32_t count);
  void arrive(uint32_t at, uint32_t announced_bytes);
  void await_phase(uint32_t at, uint32_t parity);
  void copy_bulk(uint32_t to, const void* from, uint32_t bytes, uint32_t arrivals);
  void fence_engines() { shared_.fence(running_); }
  /// Products of warpgroups. They run, each warp's 16 rows by themselves, when somebody waits for their group; until then what
  /// they sum to holds NaN, and operands are read as they are at the wait.
  struct GroupProduct {
    const char* name;
    void (*run)(const GroupProduct& product, uint32_t (*sums)[64]);  ///< sums [lane][word]
    const uint32_t* a[kLanes];
    uint64_t a_address, b_address;
    uint32_t words;  ///< of sums, in a lane
    bool add;
    uint32_t warp_row;  ///< warp's number in its warpgroup
  };
  struct GroupLane {
    uint32_t* sums;
    GroupProduct product;  ///< of the first lane: for all
  };
  void group_product(GroupLane& mine);
  void group_fence();
  void group_commit();
  void group_wait(uint32_t groups_left);
  void check_engine_read(uint32_t at, uint32_t bytes) { stop_if(shared_.read_by_engine(at, bytes, accessor())); }

 private:
  struct Sums {  ///< what a lane's registers held and will hold; a row per lane
    uint32_t* registers[kLanes];
    uint32_t values[kLanes][64];
    uint32_t words, under_way;
  };
  struct Queued {
    GroupProduct product;
    Sums* sums;
  };
  struct Group {  ///< of one warp
    bool fenced = false;
    std::vector<Queued> open;
    std::deque<std::vector<Queued>> committed;
    std::map<const void*, std::unique_ptr<Sums>> sums;
    uint64_t issued = 0;
  };
  struct Arrivals {
    uint32_t count = 0, pending = 0, phase = 0;
    int64_t bytes = 0;                                                          ///< announced and not there
    std::vector<std::pair<uint32_t, std::pair<const void*, uint32_t>>> copies;  ///< to, from, bytes
    std::vector<uint32_t> waiting;                                              ///< threads
    Clocks joined{}, over{};                                                    ///< of this phase so far; of the last one
  };
  struct Meeting {  ///< of the four warps of a warpgroup; orders nothing
    std::vector<uint32_t> warps;
    uint64_t issued = 0;
  };
  Arrivals& arrivals(uint32_t at, const char* what);
  void finish_phase(Arrivals& x);
  void wake(Arrivals& x);
  void meet_group(const char* what);
  static void run_queued(Block& block, Group& group, std::vector<Queued>& products);

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
    Clocks known{};
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
  std::map<uint32_t, Arrivals> arrivals_;
  std::vector<Group> groups_;      ///< of each warp
  std::vector<Meeting> meetings_;  ///< of each warpgroup
  uint32_t engine_clock_ = 1;
};

}  // namespace sla2::emulator
