// SPDX-License-Identifier: Apache-2.0
// The only place where exceptions end: a body that throws becomes a status and this thread's error text.
// Text out: one rule for every function that fills a caller's buffer.
#pragma once
#include <sla2/base.h>

#include <cstdint>
#include <exception>
#include <new>
#include <string>
#include <string_view>
#include <utility>

#include "core/error.h"

namespace sla2::api {

/// Remember the text of this thread's failed call; never throws (a short text stands in when memory is out).
void set_last_error(std::string_view text) noexcept;

/// "" if this thread's calls all succeeded.
[[nodiscard]] const char* last_error() noexcept;

/// Turn the exception in flight into a status and this thread's error text. Call only inside a catch block.
sla2_status report_current_exception() noexcept;

/// Run `body`; SLA2_OK if it returns. Every C function that can fail is one guard around one body.
template <typename Body>
sla2_status guard(Body&& body) noexcept {
  try {
    std::forward<Body>(body)();
    return SLA2_OK;
  } catch (...) {
    return report_current_exception();
  }
}

/// Copy `text` with its terminator into a caller's buffer of `capacity` bytes, cut at a whole UTF-8 character.
/// @return bytes needed, terminator included.
uint64_t copy_text(std::string_view text, char* buffer, uint64_t capacity) noexcept;

/// For functions that return the size of a text: 0 if `make` throws (the reason is in sla2_last_error()).
template <typename Make>
uint64_t guard_text(char* buffer, uint64_t capacity, Make&& make) noexcept {
  uint64_t needed = 0;
  if (buffer != nullptr && capacity > 0) buffer[0] = '\0';
  guard([&] { needed = copy_text(std::forward<Make>(make)(), buffer, capacity); });
  return needed;
}

/// Throw ARGUMENT if a pointer the function needs is NULL.
template <typename T>
T& required(T* pointer, const char* function, const char* argument) {
  SLA2_CHECK(pointer != nullptr, SLA2_E_ARGUMENT, "{}: `{}` is NULL; pass a valid pointer", function, argument);
  return *pointer;
}

}  // namespace sla2::api
