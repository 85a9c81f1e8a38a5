// SPDX-License-Identifier: Apache-2.0
// The log sink: several threads at once, calls from inside, and what a program may rely on after it took its sink away.
#include <atomic>
#include <catch2/catch.hpp>
#include <chrono>
#include <string>
#include <thread>
#include <vector>

#include "core/log.h"

#if defined(__unix__)
#include <sys/wait.h>
#include <unistd.h>
#endif

using namespace sla2;
using namespace std::chrono_literals;

namespace {

/// Wait for a condition another thread brings about; false after a time no machine needs.
template <typename Condition>
bool comes_true(Condition&& condition) {
  for (int i = 0; i < 20'000; ++i) {
    if (condition()) return true;
    std::this_thread::sleep_for(1ms);
  }
  return false;
}

struct Meeting {
  std::atomic<int> inside{0}, met{0};
};

void meet(void* user, int32_t, const char*) {
  auto& m = *static_cast<Meeting*>(user);
  ++m.inside;
  if (comes_true([&] { return m.inside >= 2; })) ++m.met;
}

std::atomic<int> g_lines{0};
std::string g_last;

void log_inside(void* user, int32_t level, const char* text) {
  ++g_lines;
  log(level, "said inside of '{}'", text);  // dropped: it would never end
  set_log_sink(log_inside, user);           // and this returns
}

void keep_last(void*, int32_t, const char* text) { g_last = text; }

void replace_inside(void*, int32_t, const char*) {
  ++g_lines;
  set_log_sink(keep_last, nullptr);
}

struct Owner {
  std::atomic<bool> gone{false};
  std::atomic<int> calls{0}, late{0};
};

void late_after_gone(void* user, int32_t, const char*) {
  auto& owner = *static_cast<Owner*>(user);
  ++owner.calls;
  std::this_thread::sleep_for(100us);
  if (owner.gone) ++owner.late;
}

}  // namespace

TEST_CASE("no lock is held while a sink runs: two threads meet inside it") {
  Meeting meeting;
  set_log_sink(meet, &meeting);
  std::vector<std::thread> threads;
  for (int i = 0; i < 2; ++i) threads.emplace_back([] { log(SLA2_LOG_INFO, "hello"); });
  for (std::thread& thread : threads) thread.join();
  set_log_sink(nullptr, nullptr);
  CHECK(meeting.met == 2);
}

TEST_CASE("a sink may log and set sinks, from several threads") {
  constexpr int kThreads = 4, kLines = 200;
  g_lines = 0;
  set_log_sink(log_inside, nullptr);
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; ++i)
    threads.emplace_back([] {
      for (int line = 0; line < kLines; ++line) log(SLA2_LOG_INFO, "line {}", line);
    });
  for (std::thread& thread : threads) thread.join();
  set_log_sink(nullptr, nullptr);
  CHECK(g_lines == kThreads * kLines);  // each line once, none of those said inside
}

TEST_CASE("a sink replaced from inside gets no further line") {
  g_lines = 0;
  set_log_sink(replace_inside, nullptr);
  log(SLA2_LOG_INFO, "first");
  log(SLA2_LOG_INFO, "second");
  set_log_sink(nullptr, nullptr);
  log(SLA2_LOG_INFO, "third");
  CHECK(g_lines == 1);
  CHECK(g_last == "second");
  CHECK_FALSE(log_enabled());
}

#if defined(__unix__)
TEST_CASE("a forked child waits for no call of a thread it does not have") {
  Meeting meeting;
  set_log_sink(meet, &meeting);
  std::thread inside([] { log(SLA2_LOG_INFO, "hello"); });
  REQUIRE(comes_true([&] { return meeting.inside == 1; }));
  const pid_t child = fork();
  if (child == 0) {
    alarm(10);  // instead of waiting for ever
    set_log_sink(nullptr, nullptr);
    _exit(0);
  }
  int status = -1;
  CHECK(waitpid(child, &status, 0) == child);
  CHECK(status == 0);
  ++meeting.inside;
  inside.join();
  set_log_sink(nullptr, nullptr);
}
#endif

TEST_CASE("a sink that was taken away runs nowhere") {
  std::atomic<bool> stop{false};
  std::vector<std::thread> threads;
  for (int i = 0; i < 3; ++i)
    threads.emplace_back([&] {
      while (!stop) log(SLA2_LOG_INFO, "busy");
    });
  int calls = 0;
  for (int round = 0; round < 100; ++round) {
    Owner owner;
    set_log_sink(late_after_gone, &owner);
    REQUIRE(comes_true([&] { return owner.calls > 0; }));
    set_log_sink(nullptr, nullptr);
    owner.gone = true;
    std::this_thread::sleep_for(200us);
    CHECK(owner.late == 0);
    calls += owner.calls;
  }
  stop = true;
  for (std::thread& thread : threads) thread.join();
  CHECK(calls >= 100);
}
