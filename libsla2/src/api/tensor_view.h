// SPDX-License-Identifier: Apache-2.0
// A caller's sla2_tensor, checked: what the rooms inside may rely on.
#pragma once
#include <sla2/tensor.h>

#include <cstdint>

#include "core/dtype.h"

namespace sla2::api {

/// Bytes [begin, end) that a strided view may touch.
struct ByteRange {
  uintptr_t begin = 0, end = 0;
  [[nodiscard]] bool meets(const ByteRange& other) const { return begin < other.end && other.begin < end; }
};

/// DType of a view, kUnset where the library has none for it.
[[nodiscard]] DType tensor_dtype(const sla2_tensor& tensor) noexcept;

/// Where memory is.
struct Where {
  int32_t device_type = SLA2_DEVICE_CPU, device_id = 0;
};

/// Structure, device, pointer, alignment and strides of a caller's view. `name` is used in the error text.
/// Throws SLA2_E_ARGUMENT | SLA2_E_VERSION | SLA2_E_UNSUPPORTED (another device than `where`).
[[nodiscard]] sla2_tensor read_tensor(const sla2_tensor* source, const char* name, const Where& where);

/// Of a view from read_tensor().
[[nodiscard]] ByteRange byte_range(const sla2_tensor& tensor);

/// No two elements share memory: what a tensor that is written must fulfil.
[[nodiscard]] bool elements_are_distinct(const sla2_tensor& tensor);

}  // namespace sla2::api
