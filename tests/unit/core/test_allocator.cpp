// SPDX-License-Identifier: Apache-2.0
// Buffers from a host's allocator: what it is asked for, when it may change, and what becomes of its failures. A whole job under
// one: tests/abi/allocator.c.
#include <catch2/catch.hpp>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <utility>

#include "core/core.h"

using namespace sla2;

namespace {

struct Host {
  int alive = 0, calls = 0;
  uint64_t bytes = 0;
  bool refuses = false;
};

void* take(void* user, uint64_t bytes, uint64_t alignment) {
  auto& host = *static_cast<Host*>(user);
  ++host.calls;
  if (host.refuses) return nullptr;
  ++host.alive;
  host.bytes += bytes;
  return std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
}

void give(void* user, void* memory, uint64_t bytes, uint64_t) {
  auto& host = *static_cast<Host*>(user);
  --host.alive;
  host.bytes -= bytes;
  std::free(memory);
}

/// The allocator of `host` while it lives.
struct Using {
  explicit Using(Host& host) {
    sla2_allocator allocator{};
    allocator.user = &host;
    allocator.allocate = take;
    allocator.release = give;
    set_host_allocator(allocator);
  }
  ~Using() { set_host_allocator({}); }
  Using(const Using&) = delete;
  Using& operator=(const Using&) = delete;
};

sla2_status status_of(void (*call)()) {
  try {
    call();
  } catch (const Error& error) {
    CHECK(std::string(error.what()).size() > 20);
    return error.status();
  }
  return SLA2_OK;
}

}  // namespace

TEST_CASE("buffers and arenas come from the host's allocator and go back to it") {
  Host host;
  const Using scope(host);
  {
    AlignedBuffer<float> a(1000);
    const Arena arena(4096);
    const AlignedBuffer<float> none(0);
    CHECK(none.data() == nullptr);
    CHECK(host.alive == 2);
    CHECK(host.bytes == 4000 + 4096);
    CHECK(reinterpret_cast<uintptr_t>(a.data()) % AlignedBuffer<float>::kAlignment == 0);
    AlignedBuffer<float> moved(std::move(a));
    moved = AlignedBuffer<float>(10);
    CHECK(host.alive == 2);
    CHECK(host.bytes == 40 + 4096);
  }
  CHECK(host.alive == 0);
  CHECK(host.bytes == 0);
}

TEST_CASE("the allocator does not change while a buffer lives") {
  Host host;
  {
    const AlignedBuffer<float> own(10);
    CHECK(status_of([] { set_host_allocator({}); }) == SLA2_E_STATE);
  }
  const Using scope(host);
  const AlignedBuffer<float> hosts(10);
  CHECK(status_of([] { set_host_allocator({}); }) == SLA2_E_STATE);
  CHECK(host.alive == 1);
}

TEST_CASE("a buffer that cannot be had is SLA2_E_MEMORY, and counts as none") {
  Host host;
  {
    const Using scope(host);
    host.refuses = true;
    CHECK(status_of([] { AlignedBuffer<float>(10); }) == SLA2_E_MEMORY);
    CHECK(host.calls == 1);
    CHECK(status_of([] { AlignedBuffer<double>(SIZE_MAX / 4); }) == SLA2_E_MEMORY);  // 2^65 bytes: nobody is asked
    CHECK(host.calls == 1);
  }
  CHECK(status_of([] { AlignedBuffer<double>(SIZE_MAX / 4); }) == SLA2_E_MEMORY);
#if !defined(__SANITIZE_THREAD__)                                                   // its allocator ends the process instead
  CHECK(status_of([] { AlignedBuffer<char>(size_t{1} << 60); }) == SLA2_E_MEMORY);  // more than any address space
#endif
  CHECK(status_of([] { set_host_allocator({}); }) == SLA2_OK);
}
