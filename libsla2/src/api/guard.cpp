// SPDX-License-Identifier: Apache-2.0
#include "api/guard.h"

#include <cstring>

namespace sla2::api {

namespace {

/// The error text belongs to the thread, as errno does: the C door promises it and no handle exists to hold it.
thread_local std::string last_error_text;       // NOLINT(cppcoreguidelines-avoid-non-const-global-variables)
thread_local const char* last_error_view = "";  // NOLINT(cppcoreguidelines-avoid-non-const-global-variables)

bool continues_character(char byte) noexcept { return (static_cast<unsigned char>(byte) & 0xC0u) == 0x80u; }

}  // namespace

void set_last_error(std::string_view text) noexcept {
  try {
    last_error_text.assign(text);
    last_error_view = last_error_text.c_str();
  } catch (...) {
    last_error_view = "out of memory, and too little left to say where";
  }
}

const char* last_error() noexcept { return last_error_view; }

sla2_status report_current_exception() noexcept {
  try {
    throw;
  } catch (const Error& error) {
    set_last_error(error.what());
    return error.status();
  } catch (const std::bad_alloc&) {
    set_last_error("an allocation failed: out of memory. Ask for a smaller clip, or free memory and try again");
    return SLA2_E_MEMORY;
  } catch (const std::exception& error) {
    try {
      set_last_error(fmt::format("internal error, a bug in the library: {}", error.what()));
    } catch (...) {
      set_last_error("internal error, a bug in the library");
    }
    return SLA2_E_INTERNAL;
  } catch (...) {
    set_last_error("internal error, a bug in the library: an unknown exception");
    return SLA2_E_INTERNAL;
  }
}

uint64_t copy_text(std::string_view text, char* buffer, uint64_t capacity) noexcept {
  if (buffer != nullptr && capacity > 0) {
    size_t count = text.size();
    if (count > capacity - 1) {
      count = static_cast<size_t>(capacity - 1);
      while (count > 0 && continues_character(text[count])) --count;
    }
    std::memcpy(buffer, text.data(), count);
    buffer[count] = '\0';
  }
  return static_cast<uint64_t>(text.size()) + 1;
}

}  // namespace sla2::api
