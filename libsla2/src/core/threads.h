// SPDX-License-Identifier: Apache-2.0
// The one thread pool. It is OpenMP's, because oneDNN (as Debian builds it) runs on OpenMP: two pools on the same cores
// would fight. Under TSan (SLA2_THREADS=std) plain threads take its place.
// Work is cut into fixed parts, so a result never depends on the number of threads.
#pragma once
#include <sla2/tensor.h>

#include <cstdint>
#include <functional>

namespace sla2 {

/// Threads used by calls made from this thread; 0 restores the default (all CPUs this process may use).
void set_thread_count(int count) noexcept;
[[nodiscard]] int thread_count() noexcept;

/// set_thread_count() while it lives; what this thread had comes back, OpenMP's own number for it included: the caller's other
/// libraries read that.
class ThreadCountScope {
 public:
  explicit ThreadCountScope(int count) noexcept;
  ~ThreadCountScope();
  ThreadCountScope(const ThreadCountScope&) = delete;
  ThreadCountScope& operator=(const ThreadCountScope&) = delete;

 private:
  int count_, openmp_ = 0;
};

/// parallel_for() of this thread runs on the host's threads while it lives (sla2_exec.run); a null `run` on the library's own.
class HostThreadsScope {
 public:
  HostThreadsScope(sla2_run_fn run, void* user) noexcept;
  ~HostThreadsScope();
  HostThreadsScope(const HostThreadsScope&) = delete;
  HostThreadsScope& operator=(const HostThreadsScope&) = delete;

 private:
  sla2_run_fn run_;
  void* user_;
};

/// Call body(i, worker) for i in [0, count), dynamically scheduled; worker in [0, thread_count()).
/// The body must not throw and must not depend on the worker except for scratch memory.
/// Throws SLA2_E_ARGUMENT where a host's threads leave tasks out.
void parallel_for(int64_t count, const std::function<void(int64_t index, int worker)>& body);

/// Cut [0, count) into ranges of at most `grain` and call body(begin, end, worker).
void parallel_ranges(int64_t count, int64_t grain, const std::function<void(int64_t begin, int64_t end, int worker)>& body);

}  // namespace sla2
