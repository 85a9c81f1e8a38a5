// SPDX-License-Identifier: Apache-2.0
// Statuses of the C door become Python exceptions: sla2.errors has one class per status.
#pragma once
#include <pybind11/pybind11.h>
#include <sla2/base.h>

#include <string>

namespace sla2::python {

/// Raise the exception of a status with this text. The GIL must be held.
[[noreturn]] void raise(sla2_status status, const std::string& text);

/// Raise what the last failed call said. The GIL must be held, and the call must have been this thread's last.
inline void require(sla2_status status) {
  if (status != SLA2_OK) raise(status, sla2_last_error());
}

/// The two-call pattern of functions that write text: ask for the size, then fill; a report may grow in between.
template <typename Call>
std::string read_text(const Call& call) {
  std::string text(static_cast<size_t>(call(nullptr, uint64_t{0})), '\0');
  if (text.empty()) raise(SLA2_E_INTERNAL, sla2_last_error());
  for (;;) {
    const auto needed = static_cast<size_t>(call(text.data(), static_cast<uint64_t>(text.size())));
    if (needed <= text.size()) {
      text.resize(needed - 1);
      return text;
    }
    text.resize(needed);
  }
}

}  // namespace sla2::python
