// SPDX-License-Identifier: Apache-2.0
// The one exception type. Thrown anywhere inside, caught only in api/, where it becomes a status and a text.
// A text says: what, where, expected, got, remedy.
#pragma once
#include <fmt/format.h>
#include <sla2/base.h>

#include <stdexcept>
#include <string>
#include <utility>

namespace sla2 {

class Error : public std::runtime_error {
 public:
  Error(sla2_status status, const std::string& text) : std::runtime_error(text), status_(status) {}
  [[nodiscard]] sla2_status status() const noexcept { return status_; }

 private:
  sla2_status status_;
};

/// Throw Error{status, formatted text}.
template <typename... Args>
[[noreturn]] void fail(sla2_status status, fmt::format_string<Args...> format, Args&&... args) {
  throw Error(status, fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace sla2

/// Check a condition that input can violate; for programming mistakes use assert.
#define SLA2_CHECK(condition, status, ...)                 \
  do {                                                     \
    if (!(condition)) ::sla2::fail((status), __VA_ARGS__); \
  } while (false)
