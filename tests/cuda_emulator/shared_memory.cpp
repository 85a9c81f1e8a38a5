// SPDX-License-Identifier: Apache-2.0
#include "shared_memory.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

namespace sla2::emulator {

void SharedMemory::reset(uint32_t bytes) {
  bytes_.assign(bytes, kPoison);
  words_.assign((bytes + kWord - 1) / kWord, Word{});
  fences_.fill(0);
}

std::string SharedMemory::outside(const char* what, uint32_t at, uint32_t bytes) const {
  if (at + bytes <= size() && at % bytes == 0) return "";
  return fmt::format("shared memory: {} of {} bytes at {}: {}", what, bytes, at,
                     at + bytes > size() ? fmt::format("the block has {}", size()) : "misaligned");
}

std::string SharedMemory::after_write(const char* what, uint32_t at, const Word& word, const Accessor& who) {
  if (word.writer == kNobody || word.writer == who.thread) return "";
  const uint32_t mine = who.thread / kLanes, theirs = word.writer / kLanes;
  const bool ordered = mine == theirs ? word.write_step < who.step : word.write_clock < (*who.known)[theirs];
  if (ordered) return "";
  return fmt::format("race: thread {} {} shared byte {}, which thread {} wrote with no {} between", who.thread, what, at,
                     word.writer, mine == theirs ? "sync_warp" : "barrier");
}

std::string SharedMemory::read(uint32_t at, uint32_t bytes, const Accessor& who) {
  std::string wrong = outside("read", at, bytes);
  for (uint32_t i = at / kWord; wrong.empty() && i <= (at + bytes - 1) / kWord; ++i) {
    Word& word = words_[i];
    if (word.pending != kNobody)
      return fmt::format("missing wait: thread {} reads shared byte {}, which thread {}'s asynchronous copy has not reached",
                         who.thread, at, word.pending);
    wrong = after_write("reads", at, word, who);
    word.reader = who.thread;
    word.read_step = who.step;
    word.read_clock[who.thread / kLanes] = (*who.known)[who.thread / kLanes];
  }
  return wrong;
}

std::string SharedMemory::write(uint32_t at, uint32_t bytes, const Accessor& who) {
  std::string wrong = outside("write", at, bytes);
  const uint32_t mine = who.thread / kLanes;
  for (uint32_t i = at / kWord; wrong.empty() && i <= (at + bytes - 1) / kWord; ++i) {
    Word& word = words_[i];
    if (word.pending != kNobody && word.pending != who.thread)
      return fmt::format("race: thread {} writes shared byte {} under thread {}'s asynchronous copy", who.thread, at,
                         word.pending);
    wrong = after_write("writes", at, word, who);
    for (uint32_t warp = 0; wrong.empty() && warp < kMaxWarps; ++warp)
      if (warp != mine && word.read_clock[warp] != 0 && word.read_clock[warp] >= (*who.known)[warp])
        wrong = fmt::format("race: thread {} writes shared byte {}, which warp {} read with no barrier between", who.thread, at,
                            warp);
    if (wrong.empty() && word.reader != kNobody && word.reader != who.thread && word.reader / kLanes == mine &&
        word.read_step >= who.step)
      wrong = fmt::format("race: thread {} writes shared byte {}, which thread {} read with no sync_warp between", who.thread, at,
                          word.reader);
    word.writer = who.thread;
    word.write_clock = (*who.known)[mine];
    word.write_step = who.step;
    word.fences = fences_[who.thread];
  }
  return wrong;
}

std::string SharedMemory::read_by_engine(uint32_t at, uint32_t bytes, const Accessor& who) {
  std::string wrong = read(at, bytes, who);
  for (uint32_t i = at / kWord; wrong.empty() && i <= (at + bytes - 1) / kWord; ++i) {
    const Word& word = words_[i];
    if (word.writer < kMaxWarps * kLanes && word.fences == fences_[word.writer])
      return fmt::format(
          "missing fence: a product of warpgroups reads shared byte {}, which thread {} stored and did not show_to_engines",
          i * kWord, word.writer);
  }
  return wrong;
}

std::string SharedMemory::start_copy(uint32_t at, uint32_t bytes, const Accessor& who) {
  std::string wrong = write(at, bytes, who);
  if (!wrong.empty()) return wrong;
  std::fill_n(bytes_.begin() + at, bytes, kPoison);
  for (uint32_t i = at / kWord; i <= (at + bytes - 1) / kWord; ++i) words_[i].pending = who.thread;
  return "";
}

void SharedMemory::finish_copy(uint32_t at, const void* from, uint32_t bytes, const Accessor& who) {
  std::memcpy(bytes_.data() + at, from, bytes);
  for (uint32_t i = at / kWord; i <= (at + bytes - 1) / kWord; ++i) {
    words_[i].pending = kNobody;
    words_[i].writer = who.thread;
    words_[i].write_clock = (*who.known)[who.thread / kLanes];
    words_[i].write_step = who.step;
    if (who.thread < fences_.size()) words_[i].fences = fences_[who.thread];
  }
}

}  // namespace sla2::emulator
