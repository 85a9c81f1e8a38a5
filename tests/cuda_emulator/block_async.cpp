// SPDX-License-Identifier: Apache-2.0
// Arrival barriers, bulk copies, products of warpgroups: nothing asynchronous happens before somebody waits for it.
#include <fmt/format.h>

#include <algorithm>

#include "block.h"

namespace sla2::emulator {

void Block::arrivals_init(uint32_t at, uint32_t count) {
  if (count == 0) stop(fmt::format("arrivals at {}: a phase of no arrivals", at));
  stop_if(shared_.write(at, 8, accessor()));
  arrivals_[at] = {};
  arrivals_[at].count = arrivals_[at].pending = count;
}

Block::Arrivals& Block::arrivals(uint32_t at, const char* what) {
  const auto found = arrivals_.find(at);
  if (found == arrivals_.end()) stop(fmt::format("{}: nobody made an arrival barrier at shared byte {}", what, at));
  stop_if(shared_.read(at, 8, accessor()));  // made, and others told so by a barrier
  return found->second;
}

void Block::wake(Arrivals& x) {
  ready_.insert(ready_.end(), x.waiting.begin(), x.waiting.end());
  x.waiting.clear();
}

void Block::finish_phase(Arrivals& x) {
  if (x.pending != 0 || x.bytes != 0 || !x.copies.empty()) return;
  x.over = x.joined;
  x.joined = {};
  x.pending = x.count;
  ++x.phase;
  wake(x);
}

void Block::arrive(uint32_t at, uint32_t announced_bytes) {
  Arrivals& x = arrivals(at, "arrive");
  Warp& warp = warps_[running_ / kLanes];
  uint32_t& clock = warp.known[running_ / kLanes];
  if (x.pending == 0)
    stop(fmt::format("arrivals at {}: thread {} arrives where all {} of the phase have", at, running_, x.count));
  x.bytes += announced_bytes;
  ++clock;  // what was before the arrival is below this clock
  for (size_t i = 0; i < kClocks; ++i) x.joined[i] = std::max(x.joined[i], warp.known[i]);
  if (--x.pending == 0) wake(x);
  finish_phase(x);
}

void Block::copy_bulk(uint32_t to, const void* from, uint32_t bytes, uint32_t at) {
  Arrivals& x = arrivals(at, "copy_bulk");
  constexpr uint32_t kUnit = 16;
  if (bytes == 0 || bytes % kUnit != 0 || to % kUnit != 0 || reinterpret_cast<uintptr_t>(from) % kUnit != 0)
    stop(fmt::format("copy_bulk: {} bytes to {}: size and both addresses must be multiples of 16", bytes, to));
  for (uint32_t i = 0; i < bytes; i += kUnit) stop_if(shared_.start_copy(to + i, kUnit, accessor()));
  x.copies.push_back({to, {from, bytes}});
  wake(x);
}

void Block::await_phase(uint32_t at, uint32_t parity) {
  for (;;) {
    Arrivals& x = arrivals(at, "await_phase");
    if (x.phase % 2 != parity) {
      Clocks& known = warps_[running_ / kLanes].known;
      for (size_t i = 0; i < kClocks; ++i) known[i] = std::max(known[i], x.over[i]);
      return;
    }
    if (x.pending == 0 && !x.copies.empty()) {
      Clocks engine{};
      engine[kEngine] = engine_clock_++;
      for (const auto& [to, source] : x.copies) {
        shared_.finish_copy(to, source.first, source.second, {kEngine * kLanes, 0, &engine});
        x.bytes -= source.second;
      }
      x.copies.clear();
      x.joined[kEngine] = engine_clock_;
      if (x.bytes < 0) stop(fmt::format("arrivals at {}: {} bytes came that nobody had announced", at, -x.bytes));
      finish_phase(x);
      continue;
    }
    x.waiting.push_back(running_);
    suspend();
  }
}

void Block::meet_group(const char* what) {
  const uint32_t warp = running_ / kLanes, first = warp / 4 * 4;
  if (first + 4 > warps_.size()) stop(fmt::format("{}: warp {} has no warpgroup of four warps", what, warp));
  Meeting& meeting = meetings_[warp / 4];
  if (meeting.warps.empty()) meeting.issued = groups_[warp].issued;
  if (meeting.issued != groups_[warp].issued)
    stop(fmt::format("divergence: warp {} has issued {} products of its warpgroup, another warp {}", warp, groups_[warp].issued,
                     meeting.issued));
  meeting.warps.push_back(warp);
  if (meeting.warps.size() < 4) {
    suspend();
    return;
  }
  for (const uint32_t w : meeting.warps) release_warp(w, running_);
  meeting.warps.clear();
}

void Block::group_fence() {
  if (!meet("group_fence", nullptr, nullptr)) return;
  groups_[running_ / kLanes].fenced = true;
  release_warp(running_ / kLanes, running_);
}

void Block::group_product(GroupLane& mine) {
  if (!meet(mine.product.name, &mine, nullptr)) return;
  const uint32_t warp = running_ / kLanes;
  Group& group = groups_[warp];
  if (!group.fenced)
    stop(fmt::format("missing group_fence: thread {} starts {} on registers that it may have changed", running_,
                     mine.product.name));
  const auto lane = [&](uint32_t i) { return static_cast<GroupLane*>(warps_[warp].operands[i]); };
  GroupProduct product = lane(0)->product;
  std::unique_ptr<Sums>& sums = group.sums[lane(0)->sums];
  if (!sums) {  // the registers are out of reach from here on
    sums = std::make_unique<Sums>();
    sums->words = product.words, sums->under_way = 0;
    for (uint32_t i = 0; i < kLanes; ++i) {
      sums->registers[i] = lane(i)->sums;
      std::copy_n(lane(i)->sums, product.words, sums->values[i]);
      std::fill_n(lane(i)->sums, product.words, 0xFFFFFFFFU);
    }
  }
  for (uint32_t i = 0; i < kLanes; ++i) {
    const GroupProduct& theirs = lane(i)->product;
    if (theirs.b_address != product.b_address || theirs.a_address != product.a_address || theirs.add != product.add)
      stop(fmt::format("divergence: lanes 0 and {} of warp {} give {} other descriptors", i, warp, product.name));
    product.a[i] = theirs.a[i];
  }
  product.warp_row = warp % 4;
  ++sums->under_way, ++group.issued;
  group.open.push_back({product, sums.get()});
  release_warp(warp, running_);
}

void Block::group_commit() {
  if (!meet("group_commit", nullptr, nullptr)) return;
  Group& group = groups_[running_ / kLanes];
  group.committed.push_back(std::move(group.open));
  group.open.clear();
  release_warp(running_ / kLanes, running_);
}

void Block::run_queued(Block& block, Group& group, std::vector<Queued>& products) {
  (void)block;
  for (Queued& queued : products) {
    queued.product.run(queued.product, queued.sums->values);
    if (--queued.sums->under_way > 0) continue;
    for (uint32_t i = 0; i < kLanes; ++i) std::copy_n(queued.sums->values[i], queued.sums->words, queued.sums->registers[i]);
    group.sums.erase(queued.sums->registers[0]);
  }
}

void Block::group_wait(uint32_t groups_left) {
  if (!meet("group_wait", nullptr, nullptr)) return;
  Group& group = groups_[running_ / kLanes];
  for (; group.committed.size() > groups_left; group.committed.pop_front()) run_queued(*this, group, group.committed.front());
  group.fenced = false;
  meet_group("group_wait");
}

}  // namespace sla2::emulator
