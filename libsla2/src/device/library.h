// SPDX-License-Identifier: Apache-2.0
// Shared libraries opened at run time, the same on Linux and Windows.
#pragma once
#include <type_traits>

namespace sla2::device {

/// Null where it is not there. `loaded_only`: only a copy that this process has already.
[[nodiscard]] void* open_library(const char* name, bool loaded_only = false) noexcept;
/// Null where the library has no such function.
[[nodiscard]] void* find_symbol(void* library, const char* name) noexcept;

/// The same, as a pointer to a function of the member's type.
template <typename Function>
void find_function(void* library, const char* name, Function& function) noexcept {
  function = reinterpret_cast<std::remove_reference_t<Function>>(find_symbol(library, name));
}

}  // namespace sla2::device
