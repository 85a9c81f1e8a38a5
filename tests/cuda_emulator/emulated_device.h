// SPDX-License-Identifier: Apache-2.0
// A whole GPU on the host: memory of a stated size that is poisoned when it is given out and guarded at both ends, streams that
// are queues, events that join them. Nothing queued on a stream runs before somebody must have waited for it, so a missing wait
// reads poison; with Copies::kSoon copies to the GPU run as early as their events allow, so a missing wait the other way
// overwrites what is still to be read.
#pragma once
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "device/device.h"
#include "kernels_table.h"

namespace sla2::emulator {

enum class Copies : uint8_t { kLate, kSoon };

class EmulatedDevice final : public device::Gpu {
 public:
  EmulatedDevice(int architecture, uint32_t shared_bytes, uint64_t memory_bytes, Copies copies = Copies::kLate);
  ~EmulatedDevice() override;

  /// The n-th allocation from now on (0: the next) fails as if memory were full; once.
  void fail_allocation(int n) { failing_ = n; }
  void set_memory(uint64_t bytes) { memory_bytes_ = bytes; }
  [[nodiscard]] int allocations() const { return allocations_; }  ///< asked for so far
  [[nodiscard]] uint64_t used_bytes() const { return used_; }
  [[nodiscard]] uint64_t peak_bytes() const { return peak_; }
  [[nodiscard]] uint64_t bytes_copied_in() const { return copied_in_; }
  [[nodiscard]] int64_t launches(const std::string& kernel) const;
  /// Guards that were overwritten, memory that was given back twice; empty: all is well.
  [[nodiscard]] const std::string& complaints() const { return complaints_; }

  void prepare(const char* kernel, uint32_t shared_bytes) override { launcher_.prepare(kernel, shared_bytes); }
  void launch(const device::Launch& launch) override;
  [[nodiscard]] int architecture() const noexcept override { return launcher_.architecture(); }
  [[nodiscard]] uint32_t multiprocessors() const noexcept override { return launcher_.multiprocessors(); }
  [[nodiscard]] uint32_t shared_bytes() const noexcept override { return launcher_.shared_bytes(); }

  [[nodiscard]] const device::GpuInfo& info() const noexcept override { return info_; }
  [[nodiscard]] device::MemoryInfo memory() const override { return {memory_bytes_ - used_, memory_bytes_}; }
  [[nodiscard]] void* allocate(uint64_t bytes) override;
  void release(void* memory) noexcept override;
  [[nodiscard]] void* allocate_pinned(uint64_t bytes) override;
  void release_pinned(void* memory) noexcept override;
  void copy_in(void* to, const void* from, uint64_t bytes) override;
  void copy_out(void* to, const void* from, uint64_t bytes) override;
  void queue_copy_in(void* to, const void* from, uint64_t bytes, void* stream) override;
  void queue_copy_out(void* to, const void* from, uint64_t bytes, void* stream) override;
  void queue_fill(void* to, unsigned char byte, uint64_t bytes, void* stream) override;
  [[nodiscard]] void* create_stream() override;
  void destroy_stream(void* stream) noexcept override;
  void wait(void* stream) override;
  [[nodiscard]] void* create_event() override;
  void destroy_event(void* event) noexcept override;
  void record(void* event, void* stream) override;
  void wait_in_stream(void* stream, void* event) override;
  void wait_for(void* event) override;
  [[nodiscard]] bool takes_libraries() const noexcept override { return false; }
  void run_current(const std::function<void()>& body) override { body(); }
  [[nodiscard]] double seconds_between(void*, void*) override { return 0; }

 private:
  struct Stream;
  struct Point {  ///< of a stream: after its `place`-th piece of work
    Stream* stream = nullptr;
    uint64_t place = 0;
  };
  struct Work {
    std::function<void()> run;
    Point after;  ///< work that waits
  };
  struct Stream {
    std::deque<Work> queue;
    uint64_t queued = 0, done = 0;
    bool only_copies = true;  ///< to the GPU: nothing that reads
  };
  struct Block {
    std::vector<std::byte> bytes;
    uint64_t size = 0;
  };

  static bool reached(const Point& point) { return point.stream == nullptr || point.stream->done >= point.place; }
  void queue(void* stream, Work work, bool copy);
  void step(Stream& stream);
  void run_to(const Point& point);
  void run_soon();
  void check_inside(const char* what, const void* memory, uint64_t bytes) const;

  EmulatedGpu launcher_;
  device::GpuInfo info_;
  uint64_t memory_bytes_, used_ = 0, peak_ = 0, copied_in_ = 0;
  Copies copies_;
  int failing_ = -1, allocations_ = 0;
  bool running_soon_ = false;
  std::map<std::byte*, Block> blocks_, pinned_;
  std::map<std::string, int64_t> launches_;
  std::map<void*, std::unique_ptr<Stream>> streams_;
  std::map<void*, std::unique_ptr<Point>> events_;
  std::string complaints_;
};

}  // namespace sla2::emulator
