// SPDX-License-Identifier: Apache-2.0
#include "emulated_device.h"

#include <algorithm>
#include <cstring>

#include "core/core.h"

namespace sla2::emulator {
namespace {

constexpr size_t kGuard = 256;  // bytes, and what memory is aligned to, as cuMemAlloc's is
constexpr std::byte kCanary{0xA5}, kFresh{kPoison};

std::byte* aligned(std::vector<std::byte>& bytes) {
  const auto at = reinterpret_cast<uintptr_t>(bytes.data()) + kGuard;
  return reinterpret_cast<std::byte*>((at + kGuard - 1) / kGuard * kGuard);
}

}  // namespace

EmulatedDevice::EmulatedDevice(int architecture, uint32_t shared_bytes, uint64_t memory_bytes, Copies copies)
    : launcher_(architecture, shared_bytes), memory_bytes_(memory_bytes), copies_(copies) {
  info_.name = "emulated GPU";
  info_.architecture = architecture;
  info_.memory_bytes = memory_bytes;
  info_.multiprocessors = 1;
}
EmulatedDevice::~EmulatedDevice() = default;

int64_t EmulatedDevice::launches(const std::string& kernel) const {
  const auto found = launches_.find(kernel);
  return found == launches_.end() ? 0 : found->second;
}

void* EmulatedDevice::allocate(uint64_t bytes) {
  const bool fails = failing_ == 0;
  ++allocations_;
  if (failing_ >= 0) --failing_;
  SLA2_CHECK(!fails && used_ + bytes <= memory_bytes_, SLA2_E_MEMORY, "device {}: {} bytes cannot be had; {} of {} are free",
             info_.name, bytes, memory_bytes_ - used_, memory_bytes_);
  Block block{std::vector<std::byte>(bytes + 3 * kGuard, kCanary), bytes};
  std::byte* const at = aligned(block.bytes);
  std::fill_n(at, bytes, kFresh);
  blocks_[at] = std::move(block);
  used_ += bytes;
  peak_ = std::max(peak_, used_);
  return at;
}

void EmulatedDevice::release(void* memory) noexcept {
  const auto found = blocks_.find(static_cast<std::byte*>(memory));
  if (found == blocks_.end()) {
    complaints_ += "memory was given back that is not the GPU's; ";
    return;
  }
  const Block& block = found->second;
  const auto whole = [](const std::byte* at) { return std::all_of(at, at + kGuard, [](std::byte b) { return b == kCanary; }); };
  if (!whole(found->first - kGuard) || !whole(found->first + block.size))
    complaints_ += fmt::format("something wrote beside a block of {} bytes; ", block.size);
  used_ -= block.size;
  blocks_.erase(found);
}

void* EmulatedDevice::allocate_pinned(uint64_t bytes) {
  Block block{std::vector<std::byte>(bytes + 2 * kGuard, kFresh), bytes};
  std::byte* const at = aligned(block.bytes);
  pinned_[at] = std::move(block);
  return at;
}
void EmulatedDevice::release_pinned(void* memory) noexcept { pinned_.erase(static_cast<std::byte*>(memory)); }

void EmulatedDevice::check_inside(const char* what, const void* memory, uint64_t bytes) const {
  const auto* const at = static_cast<const std::byte*>(memory);
  const bool inside = std::any_of(blocks_.begin(), blocks_.end(), [&](const auto& entry) {
    return at >= entry.first && at + bytes <= entry.first + entry.second.size;
  });
  SLA2_CHECK(inside, SLA2_E_DEVICE, "emulator: {} of {} bytes is not inside memory of the GPU", what, bytes);
}

void EmulatedDevice::copy_in(void* to, const void* from, uint64_t bytes) { queue_copy_in(to, from, bytes, nullptr); }
void EmulatedDevice::copy_out(void* to, const void* from, uint64_t bytes) { queue_copy_out(to, from, bytes, nullptr); }

void EmulatedDevice::queue_copy_in(void* to, const void* from, uint64_t bytes, void* stream) {
  check_inside("a copy to the GPU", to, bytes);
  copied_in_ += bytes;
  queue(stream, {[=] { std::memcpy(to, from, bytes); }, {}}, true);
}
void EmulatedDevice::queue_copy_out(void* to, const void* from, uint64_t bytes, void* stream) {
  check_inside("a copy from the GPU", from, bytes);
  queue(stream, {[=] { std::memcpy(to, from, bytes); }, {}}, false);
}
void EmulatedDevice::queue_fill(void* to, unsigned char byte, uint64_t bytes, void* stream) {
  check_inside("a fill", to, bytes);
  queue(stream, {[=] { std::memset(to, byte, bytes); }, {}}, true);
}

void EmulatedDevice::launch(const device::Launch& launch) {
  ++launches_[launch.kernel];
  const auto* const bytes = static_cast<const std::byte*>(launch.params);
  auto params = std::make_shared<AlignedBuffer<std::byte>>(launch.params_bytes);
  std::copy_n(bytes, launch.params_bytes, params->data());
  device::Launch later = launch;
  later.params = params->data();
  queue(launch.stream, {[this, later, params] { launcher_.launch(later); }, {}}, false);
}

void* EmulatedDevice::create_stream() {
  auto stream = std::make_unique<Stream>();
  void* const handle = stream.get();
  streams_[handle] = std::move(stream);
  return handle;
}
void EmulatedDevice::destroy_stream(void* stream) noexcept {
  try {
    wait(stream);  // as cuStreamDestroy: what is queued is still done
  } catch (const Error& error) {
    complaints_ += error.what();
  }
  streams_.at(stream)->queue.clear();
  for (auto& entry : events_)
    if (entry.second->stream == stream) *entry.second = {};
  streams_.erase(stream);
}

void EmulatedDevice::queue(void* stream, Work work, bool copy) {
  if (stream == nullptr) {  // the default stream: at once
    work.run();
    return;
  }
  Stream& s = *streams_.at(stream);
  s.only_copies = s.only_copies && copy;
  s.queue.push_back(std::move(work));
  ++s.queued;
  run_soon();
}

void EmulatedDevice::step(Stream& stream) {
  if (const Point after = stream.queue.front().after; !reached(after)) {
    const uint64_t place = stream.done;
    run_to(after);                     // the wait stands in the queue meanwhile, and what is behind it does not run
    if (stream.done != place) return;  // it was soon enough for somebody else to go on here
  }
  const Work work = std::move(stream.queue.front());
  stream.queue.pop_front();
  ++stream.done;  // also where it throws: it will not be tried again
  if (work.run) work.run();
  run_soon();
}
void EmulatedDevice::run_to(const Point& point) {
  while (!reached(point)) step(*point.stream);
}
void EmulatedDevice::run_soon() {
  if (copies_ == Copies::kLate || running_soon_) return;
  running_soon_ = true;
  for (auto& [handle, stream] : streams_)
    while (stream->only_copies && !stream->queue.empty() && reached(stream->queue.front().after)) step(*stream);
  running_soon_ = false;
}

void EmulatedDevice::wait(void* stream) {
  if (stream == nullptr) return;
  Stream& s = *streams_.at(stream);
  run_to({&s, s.queued});
}
void* EmulatedDevice::create_event() {
  auto event = std::make_unique<Point>();
  void* const handle = event.get();
  events_[handle] = std::move(event);
  return handle;
}
void EmulatedDevice::destroy_event(void* event) noexcept { events_.erase(event); }
void EmulatedDevice::record(void* event, void* stream) {
  Stream& s = *streams_.at(stream);
  *events_.at(event) = {&s, s.queued};
}
void EmulatedDevice::wait_in_stream(void* stream, void* event) { queue(stream, {{}, *events_.at(event)}, true); }
void EmulatedDevice::wait_for(void* event) { run_to(*events_.at(event)); }

}  // namespace sla2::emulator
