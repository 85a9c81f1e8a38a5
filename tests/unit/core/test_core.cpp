// SPDX-License-Identifier: Apache-2.0
// core: conversions against the hardware's own and exhaustively, the memory plan, threads, views.
#include <atomic>
#include <bit>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <numeric>
#include <random>
#include <vector>

#include "core/core.h"
#include "core/memory.h"

using namespace sla2;

TEST_CASE("every fp16 and bf16 pattern survives a round trip") {
  for (uint32_t code = 0; code < 65536; ++code) {
    const auto half = static_cast<uint16_t>(code);
    const float from_half = f16_to_f32(half), from_bf16 = bf16_to_f32(half);
    if (std::isnan(from_half)) {
      CHECK(std::isnan(f16_to_f32(f32_to_f16(from_half))));
    } else if (f32_to_f16(from_half) != half) {
      FAIL("fp16 code " << code << " came back as " << f32_to_f16(from_half));
    }
    if (std::isnan(from_bf16)) {
      if (!std::isnan(bf16_to_f32(f32_to_bf16(from_bf16)))) FAIL("bf16 NaN lost at code " << code);
    } else if (f32_to_bf16(from_bf16) != half) {
      FAIL("bf16 code " << code << " came back as " << f32_to_bf16(from_bf16));
    }
  }
}

#if defined(__FLT16_MAX__)
TEST_CASE("fp16 rounding equals the compiler's _Float16") {
  std::mt19937 random(7);
  for (int i = 0; i < 2'000'000; ++i) {
    const float value = std::bit_cast<float>(static_cast<uint32_t>(random()));
    if (std::isnan(value)) continue;
    const auto expected = std::bit_cast<uint16_t>(static_cast<_Float16>(value));
    if (f32_to_f16(value) != expected) FAIL(value << ": " << f32_to_f16(value) << " expected " << expected);
  }
}
#endif

TEST_CASE("bf16 rounds to nearest, ties to even") {
  CHECK(f32_to_bf16(std::bit_cast<float>(0x3f808000U)) == 0x3f80);  // tie, even below
  CHECK(f32_to_bf16(std::bit_cast<float>(0x3f818000U)) == 0x3f82);  // tie, even above
  CHECK(f32_to_bf16(std::bit_cast<float>(0x3f808001U)) == 0x3f81);
  CHECK(std::isinf(bf16_to_f32(f32_to_bf16(3.4e38F))));
}

TEST_CASE("fp8 e4m3 and e5m2 landmarks") {
  CHECK(f8e4m3_to_f32(0x7e) == 448.0F);
  CHECK(std::isnan(f8e4m3_to_f32(0x7f)));
  CHECK(f8e4m3_to_f32(0x01) == std::ldexp(1.0F, -9));
  CHECK(f8e4m3_to_f32(0xb8) == -1.0F);
  CHECK(f8e5m2_to_f32(0x7b) == 57344.0F);
  CHECK(std::isinf(f8e5m2_to_f32(0x7c)));
  CHECK(f8e5m2_to_f32(0x3c) == 1.0F);
}

TEST_CASE("conversion reads unaligned sources") {
  std::vector<unsigned char> bytes(1 + 4 * 3);
  const float values[3] = {1.5F, -2.0F, 1e-20F};
  std::memcpy(bytes.data() + 1, values, sizeof values);
  float out[3];
  convert_to_f32(DType::kF32, bytes.data() + 1, out, 3);
  CHECK(out[2] == 1e-20F);
}

TEST_CASE("the memory plan never lets living buffers overlap and reuses dead ones") {
  std::mt19937 random(3);
  for (int round = 0; round < 50; ++round) {
    MemoryPlan plan;
    struct Want {
      uint64_t bytes;
      int first, last;
    };
    std::vector<Want> wants;
    uint64_t sum = 0;
    for (int i = 0; i < 30; ++i) {
      const int first = static_cast<int>(random() % 20);
      wants.push_back({random() % 5000 + 1, first, first + static_cast<int>(random() % 5)});
      plan.add("buffer", wants.back().bytes, wants.back().first, wants.back().last);
      sum += (wants.back().bytes + 63) / 64 * 64;
    }
    plan.solve();
    for (size_t a = 0; a < wants.size(); ++a) {
      CHECK(plan.offset(a) % 64 == 0);
      CHECK(plan.offset(a) + wants[a].bytes <= plan.total_bytes());
      for (size_t b = a + 1; b < wants.size(); ++b) {
        const bool together = wants[a].first <= wants[b].last && wants[b].first <= wants[a].last;
        const bool overlap = plan.offset(a) < plan.offset(b) + wants[b].bytes && plan.offset(b) < plan.offset(a) + wants[a].bytes;
        if (together && overlap) FAIL("buffers " << a << " and " << b << " share bytes");
      }
    }
    CHECK(plan.total_bytes() < sum);
  }
}

TEST_CASE("parallel_for visits each index once and workers stay in range") {
  for (const int threads : {1, 2, 5}) {
    set_thread_count(threads);
    std::vector<std::atomic<int>> seen(1000);
    std::atomic<int> bad{0};
    parallel_for(1000, [&](int64_t i, int worker) {
      ++seen[static_cast<size_t>(i)];
      if (worker < 0 || worker >= threads) ++bad;
    });
    CHECK(bad == 0);
    for (const auto& count : seen) CHECK(count == 1);
  }
  set_thread_count(0);
}

TEST_CASE("parallel_ranges cuts at the same places for any number of threads") {
  for (const int threads : {1, 3}) {
    set_thread_count(threads);
    std::vector<int> mark(103, 0);
    parallel_ranges(103, 10, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) mark[static_cast<size_t>(i)] = static_cast<int>(begin);
    });
    for (int i = 0; i < 103; ++i) CHECK(mark[static_cast<size_t>(i)] == i / 10 * 10);
  }
  set_thread_count(0);
}

TEST_CASE("an empty range is no work") {
  int calls = 0;
  parallel_for(0, [&](int64_t, int) { ++calls; });
  CHECK(calls == 0);
}

TEST_CASE("a strided view reads the right element") {
  std::vector<int> data(24);
  std::iota(data.begin(), data.end(), 0);
  const TensorView<int, 3> plain(data.data(), {2, 3, 4});
  CHECK(plain(1, 2, 3) == 23);
  const TensorView<int, 3> turned(data.data(), {4, 3, 2}, {1, 4, 12});
  CHECK(turned(3, 2, 1) == 23);
  CHECK(turned.size() == 24);
}

TEST_CASE("cancel throws its own status") {
  CancelToken token;
  token.check();
  token.request();
  try {
    token.check();
    FAIL("no exception");
  } catch (const Error& error) {
    CHECK(error.status() == SLA2_E_CANCELLED);
  }
}

namespace {

/// A machine's /proc and /sys in a folder.
class FakeMachine {
 public:
  FakeMachine() : root_(std::filesystem::path(SLA2_BINARY_DIR) / "fake_machine") {
    std::filesystem::remove_all(root_);
    file("proc/meminfo", "MemTotal:       16000 kB\nMemFree:         1000 kB\nMemAvailable:    9000 kB\n");
  }
  ~FakeMachine() { std::filesystem::remove_all(root_); }
  FakeMachine(const FakeMachine&) = delete;
  FakeMachine& operator=(const FakeMachine&) = delete;
  void file(const std::string& name, const std::string& text) const {
    std::filesystem::create_directories((root_ / name).parent_path());
    std::ofstream(root_ / name) << text;
  }
  [[nodiscard]] uint64_t total() const { return memory_bounds(root_.string()).total / 1024; }
  [[nodiscard]] uint64_t available() const { return memory_bounds(root_.string()).available / 1024; }

 private:
  std::filesystem::path root_;
};

std::string kib(uint64_t count) { return std::to_string(count * 1024) + "\n"; }

}  // namespace

TEST_CASE("memory is what our control group and those above it leave") {
  const FakeMachine machine;
  CHECK(machine.total() == 16000);
  CHECK(machine.available() == 9000);

  SECTION("version 2: our group, its parents, and file cache that can be given back") {
    const std::string root = "sys/fs/cgroup/", ours = root + "a.slice/job/";
    machine.file("proc/self/cgroup", "0::/a.slice/job\n");
    machine.file(root + "a.slice/other/memory.max", kib(10));  // nobody's business
    machine.file(ours + "memory.max", kib(5000));
    machine.file(ours + "memory.current", kib(3500));
    CHECK(machine.total() == 5000);
    CHECK(machine.available() == 1500);
    machine.file(ours + "memory.stat", "anon 500\ninactive_anon 7\ninactive_file " + kib(3000) + "active_file 11\n");
    CHECK(machine.available() == 4500);
    machine.file(root + "a.slice/memory.max", kib(6000));
    machine.file(root + "a.slice/memory.current", kib(5000));
    machine.file(root + "a.slice/memory.stat", "inactive_file " + kib(3000));
    CHECK(machine.available() == 4000);
    CHECK(machine.total() == 5000);
    machine.file(root + "memory.max", "max\n");
    machine.file(root + "memory.current", kib(99999));
    CHECK(machine.available() == 4000);
    machine.file(ours + "memory.current", kib(9000));  // over its limit: nothing is left, and nothing wraps around
    CHECK(machine.available() == 0);
  }
  SECTION("version 2 in a container: the mount begins at our group") {
    machine.file("proc/self/cgroup", "0::/\n");
    machine.file("sys/fs/cgroup/memory.max", kib(2000));
    machine.file("sys/fs/cgroup/memory.current", kib(1900));
    machine.file("sys/fs/cgroup/memory.stat", "inactive_file " + kib(1800));
    CHECK(machine.total() == 2000);
    CHECK(machine.available() == 1900);
  }
  SECTION("a group outside of what we see") {
    machine.file("proc/self/cgroup", "0::/../job\n");
    machine.file("sys/fs/cgroup/memory.max", kib(2000));
    machine.file("sys/fs/cgroup/memory.current", kib(500));
    CHECK(machine.available() == 1500);
  }
  SECTION("version 1, beside version 2 without memory") {
    const std::string root = "sys/fs/cgroup/memory/", ours = root + "jobs/7/";
    machine.file("proc/self/cgroup", "8:cpu,cpuacct:/elsewhere\n4:memory:/jobs/7\n0::/\n");
    machine.file("sys/fs/cgroup/unified/cgroup.procs", "");
    machine.file(root + "memory.limit_in_bytes", "9223372036854771712\n");
    machine.file(root + "memory.usage_in_bytes", kib(12000));
    machine.file(root + "elsewhere/memory.limit_in_bytes", kib(1));
    machine.file(ours + "memory.limit_in_bytes", kib(4000));
    machine.file(ours + "memory.usage_in_bytes", kib(3900));
    machine.file(ours + "memory.stat", "inactive_file 5\ntotal_inactive_file " + kib(2900));
    CHECK(machine.total() == 4000);
    CHECK(machine.available() == 3000);
  }
}

TEST_CASE("the machine's facts are plausible") {
  CHECK(physical_threads() >= 1);
  CHECK(total_memory_bytes() > (1U << 28));
  CHECK(available_memory_bytes() <= total_memory_bytes());
  CHECK(peak_resident_bytes() >= resident_bytes() / 2);
  CHECK(!cpu_name().empty());
}
