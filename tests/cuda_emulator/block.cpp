// SPDX-License-Identifier: Apache-2.0
#include "block.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

namespace sla2::emulator {
namespace {

thread_local Block* current_block = nullptr;

constexpr const char* kBarrierNames[] = {"barrier 0",  "barrier 1",  "barrier 2",  "barrier 3", "barrier 4",  "barrier 5",
                                         "barrier 6",  "barrier 7",  "barrier 8",  "barrier 9", "barrier 10", "barrier 11",
                                         "barrier 12", "barrier 13", "barrier 14", "barrier 15"};

}  // namespace

Block& Block::current() { return *current_block; }

std::string Block::run(const BlockLaunch& launch) {
  if (launch.threads == 0 || launch.threads % kLanes != 0 || launch.threads > kLanes * kMaxWarps)
    return fmt::format("{} threads in a block; expected a multiple of 32 up to {}", launch.threads, kLanes * kMaxWarps);
  current_block = this;
  launch_ = launch;
  shared_.reset(launch.shared_bytes);
  error_.clear();
  random_ = launch.seed * 0x9E3779B97F4A7C15U + 1;
  live_ = launch.threads;
  if (threads_.size() < launch.threads) threads_ = std::vector<Thread>(launch.threads);
  warps_.assign(launch.threads / kLanes, Warp{});
  for (size_t w = 0; w < warps_.size(); ++w) warps_[w].known.fill(0), warps_[w].known[w] = 1;
  for (Barrier& barrier : barriers_) barrier = {};
  arrivals_.clear();
  groups_ = std::vector<Group>(warps_.size());
  meetings_ = std::vector<Meeting>(warps_.size() / 4 + 1);
  engine_clock_ = 1;
  ready_.clear();
  for (uint32_t t = 0; t < launch.threads; ++t) {
    threads_[t].block = this;
    threads_[t].open.clear();
    threads_[t].groups.clear();
    threads_[t].fiber.prepare(&Block::enter, &threads_[t]);
    ready_.push_back(t);
  }
  while (error_.empty() && live_ > 0) {
    if (ready_.empty()) {
      error_ = deadlock();
      break;
    }
    random_ ^= random_ << 13U, random_ ^= random_ >> 7U, random_ ^= random_ << 17U;
    std::swap(ready_[random_ % ready_.size()], ready_.back());
    running_ = ready_.back();
    ready_.pop_back();
    threads_[running_].fiber.resume(scheduler_);
  }
  current_block = nullptr;
  return error_;
}

void Block::enter(void* thread) {
  Block& self = *static_cast<Thread*>(thread)->block;
  self.launch_.body(self.launch_.params);
  Thread& mine = self.threads_[self.running_];
  if (!mine.open.empty() || !mine.groups.empty())
    self.stop(fmt::format("missing wait: thread {} ends while its asynchronous copies are under way", self.running_));
  const Group& group = self.groups_[self.running_ / kLanes];
  if (!group.open.empty() || !group.committed.empty())
    self.stop(fmt::format("missing {}: thread {} ends while products of its warpgroup are under way",
                          group.open.empty() ? "wait" : "commit", self.running_));
  for (const auto& [at, x] : self.arrivals_)
    if (self.live_ == 1 && !x.copies.empty())
      self.stop(fmt::format("missing wait: the block ends while bulk copies to arrive at {} are under way", at));
  --self.live_;
  self.suspend();
}

void Block::suspend() { sla2_fiber_switch(&threads_[running_].fiber.place(), scheduler_); }

void Block::stop(std::string why) {
  error_ = fmt::format("block ({}, {}, {}): {}", launch_.block.x, launch_.block.y, launch_.block.z, why);
  suspend();
  __builtin_unreachable();
}

Accessor Block::accessor() const {
  const Warp& warp = warps_[running_ / kLanes];
  return {running_, warp.step, &warp.known};
}

bool Block::meet(const char* what, void* mine, Execute execute) {
  Warp& warp = warps_[running_ / kLanes];
  const uint32_t lane = running_ % kLanes;
  if (warp.arrived == 0) {
    warp.what = what, warp.execute = execute;
  } else if (warp.execute != execute || std::strcmp(warp.what, what) != 0) {
    stop(fmt::format("divergence: thread {} is at {} while other lanes of its warp wait at {}", running_, what, warp.what));
  }
  warp.operands[lane] = mine;
  warp.present[lane] = true;
  if (++warp.arrived < kLanes) {
    suspend();
    return false;
  }
  warp.arrived = 0;
  std::fill_n(warp.present, kLanes, false);
  return true;
}

void Block::release_warp(uint32_t warp, uint32_t except) {
  for (uint32_t t = warp * kLanes; t < (warp + 1) * kLanes; ++t)
    if (t != except) ready_.push_back(t);
}

void Block::collective(const char* what, void* mine, Execute execute) {
  if (!meet(what, mine, execute)) return;
  execute(warps_[running_ / kLanes].operands);
  release_warp(running_ / kLanes, running_);
}

void Block::sync_warp() {
  if (!meet("sync_warp", nullptr, nullptr)) return;
  ++warps_[running_ / kLanes].step;
  release_warp(running_ / kLanes, running_);
}

void Block::barrier(uint32_t id, uint32_t threads) {
  if (id >= kBarriers || threads == 0 || threads % kLanes != 0 || threads > launch_.threads)
    stop(fmt::format("barrier {} of {} threads in a block of {}", id, threads, launch_.threads));
  if (!meet(kBarrierNames[id], nullptr, nullptr)) return;
  Barrier& barrier = barriers_[id];
  if (barrier.arrived == 0) barrier.threads = threads;
  if (barrier.threads != threads)
    stop(fmt::format("barrier {}: some warps wait for {} threads, others for {}", id, barrier.threads, threads));
  const uint32_t mine = running_ / kLanes;
  barrier.warps.push_back(mine);
  barrier.arrived += kLanes;
  if (barrier.arrived < barrier.threads) {
    suspend();
    return;
  }
  Clocks joined{};
  for (const uint32_t w : barrier.warps) {
    ++warps_[w].known[w];  // what was before the barrier is below this clock
    ++warps_[w].step;
    for (size_t i = 0; i < kClocks; ++i) joined[i] = std::max(joined[i], warps_[w].known[i]);
  }
  for (const uint32_t w : barrier.warps) {
    warps_[w].known = joined;
    release_warp(w, running_);
  }
  barrier = {};
}

void Block::copy_async(uint32_t to, const void* from, uint32_t bytes) {
  if (reinterpret_cast<uintptr_t>(from) % bytes != 0)
    stop(fmt::format("copy_async: the source is not aligned to {} bytes", bytes));
  stop_if(shared_.start_copy(to, bytes, accessor()));
  threads_[running_].open.push_back({to, bytes, from});
}

void Block::copy_async_commit() {
  Thread& mine = threads_[running_];
  mine.groups.push_back(std::move(mine.open));
  mine.open.clear();
}

void Block::copy_async_wait(uint32_t groups_left) {
  std::deque<std::vector<Copy>>& groups = threads_[running_].groups;
  for (; groups.size() > groups_left; groups.pop_front())
    for (const Copy& copy : groups.front()) shared_.finish_copy(copy.to, copy.from, copy.bytes, accessor());
}

std::string Block::deadlock() const {
  std::string text =
      fmt::format("block ({}, {}, {}): deadlock, {} threads wait:", launch_.block.x, launch_.block.y, launch_.block.z, live_);
  for (size_t w = 0; w < warps_.size(); ++w) {
    const Warp& warp = warps_[w];
    if (warp.arrived > 0) text += fmt::format(" warp {}: {} of 32 lanes at {};", w, warp.arrived, warp.what);
  }
  for (size_t b = 0; b < kBarriers; ++b)
    if (barriers_[b].arrived > 0)
      text += fmt::format(" barrier {}: {} of {} threads have come;", b, barriers_[b].arrived, barriers_[b].threads);
  for (const auto& [at, x] : arrivals_)
    if (!x.waiting.empty())
      text += fmt::format(" arrivals at {}: {} threads wait in phase {}; {} of {} arrivals and {} bytes are missing;", at,
                          x.waiting.size(), x.phase, x.pending, x.count, x.bytes);
  return text;
}

}  // namespace sla2::emulator
