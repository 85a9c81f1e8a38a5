// SPDX-License-Identifier: Apache-2.0
// Versioned structs at the C door: each starts with `uint32_t struct_size` and grows only at the end.
// An older caller's struct is shorter: missing fields take their defaults. A newer caller's is longer: accepted if the
// tail this library does not know is all zero.
#pragma once
#include <sla2/base.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "core/error.h"

namespace sla2::api {

/// A struct_size above this is a caller that forgot _init, not a newer version.
inline constexpr uint32_t kLargestStruct = 1u << 16;

inline void check_struct_size(uint32_t size, const char* name) {
  SLA2_CHECK(size >= sizeof(uint32_t) && size <= kLargestStruct, SLA2_E_ARGUMENT,
             "{}: struct_size is {}; expected the sizeof of the struct. Call {}_init(&value, sizeof value) first", name, size,
             name);
}

/// _init: write `defaults` into the caller's struct of `size` bytes; fields this library does not know become zero.
template <typename T>
void init_struct(T* target, uint32_t size, const T& defaults, const char* name) {
  static_assert(std::is_trivially_copyable_v<T> && std::is_standard_layout_v<T>);
  SLA2_CHECK(target != nullptr, SLA2_E_ARGUMENT, "{}_init: the struct pointer is NULL", name);
  check_struct_size(size, name);
  std::memset(static_cast<void*>(target), 0, size);
  std::memcpy(static_cast<void*>(target), &defaults, std::min<size_t>(size, sizeof(T)));
  target->struct_size = size;
}

/// Read a caller's struct of any version into today's layout.
template <typename T>
T read_struct(const T* source, const T& defaults, const char* name) {
  static_assert(std::is_trivially_copyable_v<T> && std::is_standard_layout_v<T>);
  SLA2_CHECK(source != nullptr, SLA2_E_ARGUMENT, "the {} pointer is NULL", name);
  const uint32_t size = source->struct_size;
  check_struct_size(size, name);
  const auto* bytes = reinterpret_cast<const unsigned char*>(source);
  if (size > sizeof(T)) {
    const bool tail_is_zero = std::all_of(bytes + sizeof(T), bytes + size, [](unsigned char byte) { return byte == 0; });
    SLA2_CHECK(tail_is_zero, SLA2_E_VERSION,
               "{}: the caller sets fields this library (version {}.{}) does not know: struct_size {}, known {}. "
               "Use a newer library or leave the new fields zero",
               name, SLA2_VERSION_MAJOR, SLA2_VERSION_MINOR, size, sizeof(T));
  }
  T value = defaults;
  std::memcpy(static_cast<void*>(&value), bytes, std::min<size_t>(size, sizeof(T)));
  value.struct_size = static_cast<uint32_t>(sizeof(T));
  return value;
}

/// Fill a caller's output struct: only the bytes the caller has; its struct_size stays.
template <typename T>
void write_struct(T* target, const T& value, const char* name) {
  static_assert(std::is_trivially_copyable_v<T> && std::is_standard_layout_v<T>);
  SLA2_CHECK(target != nullptr, SLA2_E_ARGUMENT, "the {} pointer is NULL", name);
  const uint32_t size = target->struct_size;
  check_struct_size(size, name);
  std::memcpy(static_cast<void*>(target), &value, std::min<size_t>(size, sizeof(T)));
  target->struct_size = size;
}

}  // namespace sla2::api
