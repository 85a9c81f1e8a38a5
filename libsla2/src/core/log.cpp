// SPDX-License-Identifier: Apache-2.0
// A sink is called with no lock held. Calls in flight stand in a list, each with the number of the sink it runs, so that whoever
// replaces a sink can wait for the calls of former ones, and for no others.
#include "core/log.h"

#include <atomic>
#include <condition_variable>
#include <mutex>

#if defined(__unix__)
#include <pthread.h>
#endif

namespace sla2 {

namespace {

struct Call {  // on the stack of the thread that logs
  uint64_t sink;
  Call* next;
};

struct State {
  std::mutex mutex;
  std::condition_variable returned;
  sla2_log_fn call = nullptr;
  void* user = nullptr;
  uint64_t sink = 0;  // counts the sinks there were
  Call* calls = nullptr;
};

State& state() {
  static State& s = *new State;  // never destroyed: a thread may log while the process ends
  return s;
}

#if defined(__unix__)
/// In a forked child the other threads are gone, and their calls will never return.
[[maybe_unused]] const int g_forgetting = pthread_atfork([] { state().mutex.lock(); }, [] { state().mutex.unlock(); },
                                                         [] {
                                                           state().calls = nullptr;
                                                           state().mutex.unlock();
                                                         });
#endif

std::atomic<bool> g_enabled{false};
thread_local bool t_in_sink = false;

bool former_sink_runs(const State& s, uint64_t sink) noexcept {
  for (const Call* call = s.calls; call != nullptr; call = call->next)
    if (call->sink < sink) return true;
  return false;
}

}  // namespace

void set_log_sink(sla2_log_fn sink, void* user) noexcept {
  State& s = state();
  std::unique_lock lock(s.mutex);
  s.call = sink;
  s.user = user;
  const uint64_t number = ++s.sink;
  g_enabled.store(sink != nullptr, std::memory_order_relaxed);
  if (t_in_sink) return;  // it would wait for itself, or for another sink that does the same
  s.returned.wait(lock, [&] { return !former_sink_runs(s, number); });
}

bool log_enabled() noexcept { return g_enabled.load(std::memory_order_relaxed); }

void log_text(int32_t level, const std::string& text) noexcept {
  if (t_in_sink) return;  // from a call that the sink itself makes: it would never end
  State& s = state();
  Call here{};
  sla2_log_fn call = nullptr;
  void* user = nullptr;
  {
    const std::lock_guard lock(s.mutex);
    if (s.call == nullptr) return;
    call = s.call;
    user = s.user;
    here = {s.sink, s.calls};
    s.calls = &here;
  }
  t_in_sink = true;
  call(user, level, text.c_str());
  t_in_sink = false;
  {
    const std::lock_guard lock(s.mutex);
    Call** link = &s.calls;
    while (*link != nullptr && *link != &here) link = &(*link)->next;
    if (*link != nullptr) *link = here.next;  // else this is a child that was forked in the sink
  }
  s.returned.notify_all();
}

}  // namespace sla2
