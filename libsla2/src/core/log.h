// SPDX-License-Identifier: Apache-2.0
// Logging: silent unless the host installed a sink through sla2_log_set(). The library never prints.
#pragma once
#include <fmt/format.h>
#include <sla2/base.h>

#include <string>
#include <utility>

namespace sla2 {

void set_log_sink(sla2_log_fn sink, void* user) noexcept;
[[nodiscard]] bool log_enabled() noexcept;
void log_text(int32_t level, const std::string& text) noexcept;

template <typename... Args>
void log(int32_t level, fmt::format_string<Args...> format, Args&&... args) {
  if (log_enabled()) log_text(level, fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace sla2
