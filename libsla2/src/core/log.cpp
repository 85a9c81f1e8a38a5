// SPDX-License-Identifier: Apache-2.0
#include "core/log.h"

#include <atomic>
#include <mutex>

namespace sla2 {

namespace {
std::mutex g_mutex;  // guards the pair; a sink is called with it held, so replacing a sink waits for calls in flight
sla2_log_fn g_sink = nullptr;
void* g_user = nullptr;
std::atomic<bool> g_enabled{false};
}  // namespace

void set_log_sink(sla2_log_fn sink, void* user) noexcept {
  const std::lock_guard lock(g_mutex);
  g_sink = sink;
  g_user = user;
  g_enabled.store(sink != nullptr, std::memory_order_relaxed);
}

bool log_enabled() noexcept { return g_enabled.load(std::memory_order_relaxed); }

void log_text(int32_t level, const std::string& text) noexcept {
  const std::lock_guard lock(g_mutex);
  if (g_sink != nullptr) g_sink(g_user, level, text.c_str());
}

}  // namespace sla2
