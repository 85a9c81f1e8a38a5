// SPDX-License-Identifier: Apache-2.0
// C door of tensor.h, and the checks every tensor from outside goes through.
#include <sla2/tensor.h>

#include <algorithm>
#include <array>
#include <cstdlib>

#include "api/guard.h"
#include "api/struct_size.h"
#include "api/tensor_view.h"

namespace sla2::api {
namespace {

constexpr uintptr_t kDataAlignment = 16;  // promised by tensor.h

sla2_tensor empty_tensor() {
  sla2_tensor tensor{};
  tensor.struct_size = sizeof(sla2_tensor);
  tensor.dtype_lanes = 1;
  tensor.device_type = SLA2_DEVICE_CPU;
  return tensor;
}

void check_dtype(const char* name, int code, int bits, int lanes) {
  const bool known =
      (code == SLA2_DTYPE_FLOAT && (bits == 16 || bits == 32 || bits == 64)) || (code == SLA2_DTYPE_BFLOAT && bits == 16) ||
      ((code == SLA2_DTYPE_INT || code == SLA2_DTYPE_UINT) && (bits == 8 || bits == 16 || bits == 32 || bits == 64)) ||
      (code == SLA2_DTYPE_BOOL && bits == 8);
  SLA2_CHECK(
      known && lanes == 1, SLA2_E_ARGUMENT,
      "{}: element type code {}, {} bits, {} lanes is not known; set dtype_code to SLA2_DTYPE_*, dtype_bits to its width and "
      "dtype_lanes to 1",
      name, code, bits, lanes);
}

void check_data(const char* name, const void* data) {
  SLA2_CHECK(data != nullptr, SLA2_E_ARGUMENT, "{}: data is NULL", name);
  SLA2_CHECK(reinterpret_cast<uintptr_t>(data) % kDataAlignment == 0, SLA2_E_ARGUMENT,
             "{}: data {} is not aligned to {} bytes; copy it to aligned memory", name, data, kDataAlignment);
}

/// Distance in bytes from the first to the last element along one axis, as a checked product.
int64_t axis_span(const sla2_tensor& t, int axis, const char* name) {
  int64_t span = 0;
  const bool overflow = __builtin_mul_overflow(t.shape[axis] - 1, t.strides[axis], &span) ||
                        __builtin_mul_overflow(span, int64_t{t.dtype_bits / 8}, &span);
  constexpr int64_t kLimit = int64_t{1} << 60;  // six of these still fit int64
  SLA2_CHECK(!overflow && span > -kLimit && span < kLimit, SLA2_E_ARGUMENT,
             "{}: axis {} with extent {} and stride {} reaches beyond any memory; strides count elements", name, axis,
             t.shape[axis], t.strides[axis]);
  return span;
}

}  // namespace

DType tensor_dtype(const sla2_tensor& tensor) noexcept {
  if (tensor.dtype_code == SLA2_DTYPE_FLOAT && tensor.dtype_bits == 32) return DType::kF32;
  if (tensor.dtype_code == SLA2_DTYPE_FLOAT && tensor.dtype_bits == 16) return DType::kF16;
  if (tensor.dtype_code == SLA2_DTYPE_BFLOAT && tensor.dtype_bits == 16) return DType::kBF16;
  return DType::kUnset;
}

sla2_tensor read_tensor(const sla2_tensor* source, const char* name, const Where& where) {
  SLA2_CHECK(source != nullptr, SLA2_E_ARGUMENT, "the tensor {} is NULL", name);
  SLA2_CHECK(source->struct_size >= sizeof(sla2_tensor), SLA2_E_ARGUMENT,
             "{}: struct_size is {}; expected {}. Call sla2_tensor_init(&tensor, sizeof tensor) first", name, source->struct_size,
             sizeof(sla2_tensor));
  const sla2_tensor t = read_struct(source, empty_tensor(), name);
  SLA2_CHECK(t.device_type == where.device_type, SLA2_E_UNSUPPORTED,
             "{}: device type {}; the plan takes tensors of device type {}", name, t.device_type, where.device_type);
  SLA2_CHECK(where.device_type == SLA2_DEVICE_CPU || t.device_id == where.device_id, SLA2_E_UNSUPPORTED,
             "{}: device {}; the plan is on device {}", name, t.device_id, where.device_id);
  SLA2_CHECK(t.reserved == 0, SLA2_E_VERSION, "{}: `reserved` is {}; expected 0", name, t.reserved);
  SLA2_CHECK(t.ndim >= 1 && t.ndim <= SLA2_TENSOR_MAX_DIMS, SLA2_E_ARGUMENT, "{}: ndim is {}; expected 1 to {}", name, t.ndim,
             SLA2_TENSOR_MAX_DIMS);
  check_dtype(name, t.dtype_code, t.dtype_bits, t.dtype_lanes);
  check_data(name, t.data);
  for (int axis = 0; axis < t.ndim; ++axis) {
    SLA2_CHECK(t.shape[axis] >= 1, SLA2_E_ARGUMENT, "{}: extent of axis {} is {}; expected at least 1", name, axis,
               t.shape[axis]);
    (void)axis_span(t, axis, name);
  }
  return t;
}

ByteRange byte_range(const sla2_tensor& tensor) {
  int64_t low = 0, high = tensor.dtype_bits / 8;
  for (int axis = 0; axis < tensor.ndim; ++axis) {
    const int64_t span = (tensor.shape[axis] - 1) * tensor.strides[axis] * (tensor.dtype_bits / 8);
    low += std::min<int64_t>(span, 0);
    high += std::max<int64_t>(span, 0);
  }
  const auto base = reinterpret_cast<uintptr_t>(tensor.data);
  return {base + static_cast<uintptr_t>(low), base + static_cast<uintptr_t>(high)};
}

bool elements_are_distinct(const sla2_tensor& tensor) {
  // Axes by growing stride: each must step over everything the smaller ones reach. Sufficient, and true of every
  // transposed or sliced array.
  std::array<bool, SLA2_TENSOR_MAX_DIMS> done{};
  int64_t reach = 0;
  for (int round = 0; round < tensor.ndim; ++round) {
    int next = -1;
    for (int axis = 0; axis < tensor.ndim; ++axis) {
      if (done[static_cast<size_t>(axis)] || tensor.shape[axis] == 1) continue;
      if (next < 0 || std::llabs(tensor.strides[axis]) < std::llabs(tensor.strides[next])) next = axis;
    }
    if (next < 0) break;
    done[static_cast<size_t>(next)] = true;
    const int64_t stride = std::llabs(tensor.strides[next]);
    if (stride <= reach) return false;
    reach += (tensor.shape[next] - 1) * stride;
  }
  return true;
}

}  // namespace sla2::api

using namespace sla2;  // NOLINT(google-build-using-namespace): definitions of C functions only

sla2_status sla2_tensor_init(sla2_tensor* tensor, uint32_t size) {
  return api::guard([&] {
    SLA2_CHECK(size >= sizeof(sla2_tensor), SLA2_E_ARGUMENT, "sla2_tensor_init: size is {}; expected sizeof(sla2_tensor) = {}",
               size, sizeof(sla2_tensor));
    api::init_struct(tensor, size, api::empty_tensor(), "sla2_tensor");
  });
}

sla2_status sla2_tensor_set_contiguous(sla2_tensor* tensor, void* data, uint8_t dtype_code, uint8_t dtype_bits, int32_t ndim,
                                       const int64_t* shape) {
  return api::guard([&] {
    constexpr const char* kName = "sla2_tensor_set_contiguous";
    const sla2_tensor& target = api::required(tensor, kName, "tensor");
    api::required(shape, kName, "shape");
    SLA2_CHECK(target.struct_size >= sizeof(sla2_tensor), SLA2_E_ARGUMENT,
               "{}: struct_size is {}; call sla2_tensor_init(&tensor, sizeof tensor) first", kName, target.struct_size);
    SLA2_CHECK(ndim >= 1 && ndim <= SLA2_TENSOR_MAX_DIMS, SLA2_E_ARGUMENT, "{}: ndim is {}; expected 1 to {}", kName, ndim,
               SLA2_TENSOR_MAX_DIMS);
    api::check_dtype(kName, dtype_code, dtype_bits, 1);
    api::check_data(kName, data);
    sla2_tensor value = api::empty_tensor();
    value.data = data;
    value.dtype_code = dtype_code;
    value.dtype_bits = dtype_bits;
    value.ndim = ndim;
    int64_t step = 1;
    for (int32_t axis = ndim - 1; axis >= 0; --axis) {
      SLA2_CHECK(shape[axis] >= 1, SLA2_E_ARGUMENT, "{}: extent of axis {} is {}; expected at least 1", kName, axis, shape[axis]);
      value.shape[axis] = shape[axis];
      value.strides[axis] = step;
      (void)api::axis_span(value, axis, kName);
      SLA2_CHECK(!__builtin_mul_overflow(step, shape[axis], &step), SLA2_E_ARGUMENT, "{}: more elements than 2^63", kName);
    }
    api::write_struct(tensor, value, "sla2_tensor");
  });
}

sla2_status sla2_exec_init(sla2_exec* exec, uint32_t size) {
  return api::guard([&] {
    sla2_exec defaults{};
    defaults.struct_size = sizeof defaults;
    defaults.device_type = SLA2_DEVICE_CPU;
    api::init_struct(exec, size, defaults, "sla2_exec");
  });
}
