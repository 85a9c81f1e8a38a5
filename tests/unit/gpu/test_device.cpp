// SPDX-License-Identifier: Apache-2.0
// The emulated GPU notices what it exists for: each mistake planted once.
#include <catch2/catch.hpp>

#include "gpu_case.h"

namespace sla2::gpu_test {
namespace {

/// Two slots, one buffer: copy i, then read it; the reader may or may not wait for the copy, the copy for the reader, the CPU for
/// the copy before it queues the reader.
std::vector<int> stream_numbers(emulator::Copies copies, bool reader_waits, bool copy_waits, bool cpu_waits = false) {
  emulator::EmulatedDevice gpu(80, kShared, kPlenty, copies);
  const device::Buffer slot(gpu, sizeof(int));
  const device::Stream compute(gpu), load(gpu);
  const device::Event arrived(gpu), read(gpu);
  std::vector<int> out(3, -7), source{10, 11, 12};
  int first = 0;
  gpu.queue_copy_out(&first, slot.get(), 0, compute.get());
  for (size_t i = 0; i < out.size(); ++i) {
    if (copy_waits && i > 0) gpu.wait_in_stream(load.get(), read.get());
    gpu.queue_copy_in(slot.get(), &source[i], sizeof(int), load.get());
    gpu.record(arrived.get(), load.get());
    if (cpu_waits) gpu.wait_for(arrived.get());
    if (reader_waits) gpu.wait_in_stream(compute.get(), arrived.get());
    gpu.queue_copy_out(&out[i], slot.get(), sizeof(int), compute.get());
    gpu.record(read.get(), compute.get());
  }
  gpu.wait(compute.get());
  return out;
}

}  // namespace

TEST_CASE("a missing wait between streams shows") {
  using emulator::Copies;
  const std::vector<int> right{10, 11, 12};
  CHECK(stream_numbers(Copies::kLate, true, true) == right);
  CHECK(stream_numbers(Copies::kSoon, true, true) == right);
  for (const Copies copies : {Copies::kLate, Copies::kSoon}) CHECK(stream_numbers(copies, true, true, true) == right);
  CHECK(stream_numbers(Copies::kLate, false, true) != right);
  CHECK(stream_numbers(Copies::kSoon, true, false) != right);
}

TEST_CASE("memory of a GPU ends, and is guarded") {
  emulator::EmulatedDevice gpu(80, kShared, 1000);
  const auto status_of = [&](uint64_t bytes) -> sla2_status {
    try {
      const device::Buffer buffer(gpu, bytes);
      return SLA2_OK;
    } catch (const Error& error) {
      return error.status();
    }
  };
  CHECK(status_of(1000) == SLA2_OK);
  CHECK(status_of(1001) == SLA2_E_MEMORY);
  gpu.fail_allocation(1);
  CHECK(status_of(10) == SLA2_OK);
  CHECK(status_of(10) == SLA2_E_MEMORY);
  CHECK(status_of(10) == SLA2_OK);
  CHECK(gpu.used_bytes() == 0);
  CHECK(gpu.complaints().empty());
  {
    const device::Buffer buffer(gpu, 16);
    buffer.at<char>()[16] = 1;
    CHECK_THROWS_WITH(gpu.copy_in(buffer.at(8), "123456789", 9), Catch::Matchers::Contains("not inside"));
  }
  CHECK_THAT(gpu.complaints(), Catch::Matchers::Contains("wrote beside"));
}

TEST_CASE("without a driver a GPU is refused with what is missing") {
  if (device::report().missing.empty()) return;  // this machine has one
  CHECK_THROWS_WITH(device::Gpu::get(0), Catch::Matchers::Contains(device::report().missing));
}

}  // namespace sla2::gpu_test
