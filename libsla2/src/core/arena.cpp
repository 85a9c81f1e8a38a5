// SPDX-License-Identifier: Apache-2.0
#include "core/arena.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

namespace sla2 {

namespace {
constexpr uint64_t kAlign = AlignedBuffer<std::byte>::kAlignment;
}

size_t MemoryPlan::add(std::string name, uint64_t bytes, int first_step, int last_step) {
  entries_.push_back({std::move(name), (bytes + kAlign - 1) / kAlign * kAlign, first_step, last_step, 0});
  return entries_.size() - 1;
}

void MemoryPlan::solve() {
  std::vector<size_t> order(entries_.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return entries_[a].bytes > entries_[b].bytes; });
  std::vector<size_t> placed;
  total_ = 0;
  for (const size_t index : order) {
    Entry& entry = entries_[index];
    // Neighbours alive at the same time, by offset; the first gap that fits wins.
    std::vector<const Entry*> alive;
    for (const size_t other : placed) {
      const Entry& e = entries_[other];
      if (e.first <= entry.last && entry.first <= e.last) alive.push_back(&e);
    }
    std::sort(alive.begin(), alive.end(), [](const Entry* a, const Entry* b) { return a->offset < b->offset; });
    uint64_t at = 0;
    for (const Entry* e : alive) {
      if (at + entry.bytes <= e->offset) break;
      at = std::max(at, e->offset + e->bytes);
    }
    entry.offset = at;
    total_ = std::max(total_, at + entry.bytes);
    placed.push_back(index);
  }
}

std::string MemoryPlan::to_text() const {
  std::string text = fmt::format("{:>14} {:>14} {:>9}  {}\n", "offset", "bytes", "steps", "buffer");
  for (const Entry& e : entries_)
    text += fmt::format("{:>14} {:>14} {:>4}-{:<4}  {}\n", e.offset, e.bytes, e.first, e.last, e.name);
  text += fmt::format("{:>14} {:>14} {:>9}  total\n", "", total_, "");
  return text;
}

}  // namespace sla2
