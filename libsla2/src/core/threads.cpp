// SPDX-License-Identifier: Apache-2.0
#include "core/threads.h"

#include <algorithm>
#include <atomic>
#include <thread>
#include <vector>

#include "core/caps.h"
#include "core/error.h"

#ifdef SLA2_THREADS_OPENMP
#include <omp.h>
#endif
#if defined(__unix__)
#include <pthread.h>
#endif

namespace sla2 {

namespace {
thread_local int t_count = 0;
thread_local sla2_run_fn t_host_run = nullptr;
thread_local void* t_host_user = nullptr;

/// In a forked child OpenMP's pool is a list of threads that are not there, and waiting for them never ends: such a process works
/// on the thread that calls. Results do not depend on it.
std::atomic<bool> g_forked{false};
#if defined(__unix__)
[[maybe_unused]] const int g_watching = pthread_atfork(nullptr, nullptr, [] { g_forked = true; });
#endif

/// One parallel_for() on a host's threads: what its tasks find through `arg`.
struct HostLoop {
  const std::function<void(int64_t, int)>& body;
  int64_t count;
  int workers;
  std::atomic<int64_t> done{0};
};

/// A task that is none of the loop's is not run: it would work on memory that is not there.
void run_task(void* arg, int64_t index, int32_t worker) noexcept {
  auto& loop = *static_cast<HostLoop*>(arg);
  if (index < 0 || index >= loop.count || worker < 0 || worker >= loop.workers) return;
  const ThreadCountScope one(1);  // inside a task nothing is shared out again
  loop.body(index, worker);
  loop.done.fetch_add(1);
}

void run_on_host(int64_t count, int workers, const std::function<void(int64_t, int)>& body) {
  HostLoop loop{body, count, workers};
  t_host_run(t_host_user, run_task, &loop, count, workers);
  const int64_t done = loop.done;
  SLA2_CHECK(
      done == count, SLA2_E_ARGUMENT,
      "sla2_exec.run: {} tasks ran; expected {}, each index below it once, with a worker below {}. The outputs are undefined",
      done, count, workers);
}
}  // namespace

void set_thread_count(int count) noexcept {
  t_count = std::max(count, 0);
#ifdef SLA2_THREADS_OPENMP
  omp_set_num_threads(thread_count());  // oneDNN, called from this thread, follows
#endif
}

int thread_count() noexcept {
  if (g_forked) return 1;
  return t_count > 0 ? t_count : physical_threads();
}

ThreadCountScope::ThreadCountScope(int count) noexcept : count_(t_count) {
#ifdef SLA2_THREADS_OPENMP
  openmp_ = omp_get_max_threads();
#endif
  set_thread_count(count);
}

ThreadCountScope::~ThreadCountScope() {
  t_count = count_;
#ifdef SLA2_THREADS_OPENMP
  omp_set_num_threads(openmp_);
#endif
}

HostThreadsScope::HostThreadsScope(sla2_run_fn run, void* user) noexcept : run_(t_host_run), user_(t_host_user) {
  t_host_run = run;
  t_host_user = user;
}

HostThreadsScope::~HostThreadsScope() {
  t_host_run = run_;
  t_host_user = user_;
}

void parallel_for(int64_t count, const std::function<void(int64_t, int)>& body) {
  const int threads = static_cast<int>(std::min<int64_t>(thread_count(), count));
  if (threads <= 1) {
    for (int64_t i = 0; i < count; ++i) body(i, 0);
    return;
  }
  if (t_host_run != nullptr) return run_on_host(count, threads, body);
#ifdef SLA2_THREADS_OPENMP
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
  for (int64_t i = 0; i < count; ++i) body(i, omp_get_thread_num());
#else
  std::atomic<int64_t> next{0};
  const auto work = [&](int worker) {
    for (int64_t i = next.fetch_add(1); i < count; i = next.fetch_add(1)) body(i, worker);
  };
  std::vector<std::thread> helpers;
  helpers.reserve(static_cast<size_t>(threads - 1));
  for (int worker = 1; worker < threads; ++worker) helpers.emplace_back(work, worker);
  work(0);
  for (std::thread& helper : helpers) helper.join();
#endif
}

void parallel_ranges(int64_t count, int64_t grain, const std::function<void(int64_t, int64_t, int)>& body) {
  const int64_t parts = (count + grain - 1) / grain;
  parallel_for(parts, [&](int64_t part, int worker) { body(part * grain, std::min(count, (part + 1) * grain), worker); });
}

}  // namespace sla2
