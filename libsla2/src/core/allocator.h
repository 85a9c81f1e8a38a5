// SPDX-License-Identifier: Apache-2.0
// Where the library's large buffers come from: the C++ runtime, or the host's allocator (sla2_allocator_set()).
#pragma once
#include <sla2/base.h>

#include <cstddef>

namespace sla2 {

inline constexpr size_t kBufferAlignment = 64;  ///< one cache line, one AVX-512 register

/// Uninitialised memory for `count` elements of `element` bytes; null for none. Throws SLA2_E_MEMORY, or SLA2_E_ARGUMENT where
/// the host's allocator breaks its word. Any thread.
[[nodiscard]] void* allocate_buffer(size_t count, size_t element);
/// Null is fine. Any thread.
void release_buffer(void* memory, size_t bytes) noexcept;

/// Checked by the caller; a null `allocate` means the C++ runtime's. Throws SLA2_E_STATE while buffers live.
void set_host_allocator(const sla2_allocator& allocator);

}  // namespace sla2
