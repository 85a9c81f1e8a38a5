// SPDX-License-Identifier: Apache-2.0
// The allocator in use cannot change while a buffer lives, so release_buffer() needs no record of who gave what. No lock: a child
// may be forked at any moment, and the host's functions may take their time.
#include "core/allocator.h"

#include <atomic>
#include <cstdint>
#include <new>
#include <thread>

#include "core/error.h"
#include "core/pages.h"

namespace sla2 {

namespace {

constexpr int64_t kBeingSet = -1;

sla2_allocator g_allocator{};       // as set; `allocate` null: the C++ runtime's. Read while g_buffers > 0, written at kBeingSet
std::atomic<int64_t> g_buffers{0};  // alive, or being asked for

void enter() noexcept {
  int64_t buffers = g_buffers.load(std::memory_order_relaxed);
  do {
    while (buffers == kBeingSet) {
      std::this_thread::yield();
      buffers = g_buffers.load(std::memory_order_relaxed);
    }
  } while (!g_buffers.compare_exchange_weak(buffers, buffers + 1, std::memory_order_acquire, std::memory_order_relaxed));
}

void leave() noexcept { g_buffers.fetch_sub(1, std::memory_order_release); }

void* own_memory(size_t bytes) noexcept {
  void* const memory = ::operator new (bytes, std::align_val_t{kBufferAlignment}, std::nothrow);
  if (memory != nullptr) advise_huge_pages(memory, bytes);
  return memory;
}

}  // namespace

void* allocate_buffer(size_t count, size_t element) {
  if (count == 0) return nullptr;
  SLA2_CHECK(count <= static_cast<size_t>(PTRDIFF_MAX) / element, SLA2_E_MEMORY,
             "a buffer of {} elements of {} bytes is larger than any memory; ask for a smaller clip", count, element);
  const size_t bytes = count * element;
  enter();
  const sla2_allocator& from = g_allocator;
  const bool hosts = from.allocate != nullptr;
  void* const memory = hosts ? from.allocate(from.user, bytes, kBufferAlignment) : own_memory(bytes);
  if (memory == nullptr) {
    leave();
    fail(SLA2_E_MEMORY, "an allocation failed: {} of {} bytes gave none. Ask for a smaller clip, or free memory and try again",
         hosts ? "the host's allocator, asked for a buffer" : "a buffer", bytes);
  }
  if (reinterpret_cast<uintptr_t>(memory) % kBufferAlignment != 0) {
    from.release(from.user, memory, bytes, kBufferAlignment);
    leave();
    fail(SLA2_E_ARGUMENT, "sla2_allocator: allocate() returned {}, not a multiple of the alignment it was asked for, {}", memory,
         kBufferAlignment);
  }
  return memory;
}

void release_buffer(void* memory, size_t bytes) noexcept {
  if (memory == nullptr) return;
  const sla2_allocator& from = g_allocator;
  if (from.allocate != nullptr) {
    from.release(from.user, memory, bytes, kBufferAlignment);
  } else {
    ::operator delete (memory, std::align_val_t{kBufferAlignment});
  }
  leave();
}

void set_host_allocator(const sla2_allocator& allocator) {
  int64_t buffers = 0;
  while (!g_buffers.compare_exchange_weak(buffers, kBeingSet, std::memory_order_acq_rel)) {
    SLA2_CHECK(
        buffers <= 0, SLA2_E_STATE,
        "sla2_allocator_set: {} buffers of the library are in use; expected none. Set it before the first job, or destroy the "
        "jobs first",
        buffers);
    buffers = 0;
    std::this_thread::yield();
  }
  g_allocator = allocator;
  g_buffers.store(0, std::memory_order_release);
}

}  // namespace sla2
