/* SPDX-License-Identifier: Apache-2.0 */
/** @file dlpack.h  Header-only conversion between DLPack tensors and sla2_tensor. Not part of the ABI.
 *
 *  DLPack's own header is not shipped here. Include it first, then this file:
 *
 *      #include <dlpack/dlpack.h>
 *      #include <sla2/dlpack.h>
 *
 *  Without it this file declares nothing. Views are borrowed both ways: nobody's deleter is called, and the owner keeps
 *  the memory alive while the view is used. No alignment is promised here: calls check that of the data they are given (16 bytes).
 */
#ifndef SLA2_DLPACK_H
#define SLA2_DLPACK_H

#include "sla2/tensor.h"

#if defined(DLPACK_VERSION) || defined(DLPACK_MAJOR_VERSION)

/** View of a DLTensor. Strides that are NULL mean contiguous, as in DLPack before version 1.2.
 *  @return SLA2_OK | SLA2_E_ARGUMENT (NULL, ndim not 1 to SLA2_TENSOR_MAX_DIMS, extents below 0 or of more than 2^63 elements) |
 *  SLA2_E_UNSUPPORTED (lanes, element type or device that sla2_tensor cannot name); `tensor` is untouched unless SLA2_OK, and
 *  sla2_last_error() is not set. One thread at a time per view. @since 0.1 */
static inline sla2_status sla2_tensor_from_dltensor(sla2_tensor* tensor, const DLTensor* source) {
  sla2_tensor view;
  int64_t step = 1;
  int32_t axis;
  const uint8_t code = source == NULL ? 0 : (uint8_t)source->dtype.code;
  if (tensor == NULL || source == NULL) return SLA2_E_ARGUMENT;
  if (source->ndim < 1 || source->ndim > SLA2_TENSOR_MAX_DIMS || source->shape == NULL) return SLA2_E_ARGUMENT;
  if (source->dtype.lanes != 1) return SLA2_E_UNSUPPORTED;
  if (code != SLA2_DTYPE_INT && code != SLA2_DTYPE_UINT && code != SLA2_DTYPE_FLOAT && code != SLA2_DTYPE_BFLOAT &&
      code != SLA2_DTYPE_BOOL) {
    return SLA2_E_UNSUPPORTED;
  }
  if ((int)source->device.device_type != SLA2_DEVICE_CPU && (int)source->device.device_type != SLA2_DEVICE_CUDA) {
    return SLA2_E_UNSUPPORTED;
  }
  if (sla2_tensor_init(&view, (uint32_t)sizeof view) != SLA2_OK) return SLA2_E_ARGUMENT;
  view.dtype_code = code;
  view.dtype_bits = source->dtype.bits;
  view.data = (char*)source->data + source->byte_offset;
  view.ndim = source->ndim;
  view.device_type = (int32_t)source->device.device_type;
  view.device_id = source->device.device_id;
  for (axis = source->ndim - 1; axis >= 0; --axis) {
    view.shape[axis] = source->shape[axis];
    view.strides[axis] = source->strides != NULL ? source->strides[axis] : step;
    if (source->shape[axis] < 0 || (source->shape[axis] > 0 && step > INT64_MAX / source->shape[axis])) return SLA2_E_ARGUMENT;
    step *= source->shape[axis];
  }
  *tensor = view;
  return SLA2_OK;
}

#if defined(DLPACK_MAJOR_VERSION) && DLPACK_MAJOR_VERSION >= 1
/** View of a DLManagedTensorVersioned (what numpy and PyTorch hand out). `written`: nonzero if the library will write it.
 *  @return as sla2_tensor_from_dltensor(), and SLA2_E_VERSION (another major version of DLPack), SLA2_E_ARGUMENT (written,
 *  but flagged read-only). One thread at a time per view. @since 0.1 */
static inline sla2_status sla2_tensor_from_dlpack(sla2_tensor* tensor, const DLManagedTensorVersioned* source, int written) {
  if (source == NULL) return SLA2_E_ARGUMENT;
  if (source->version.major != DLPACK_MAJOR_VERSION) return SLA2_E_VERSION;
  if (written && (source->flags & DLPACK_FLAG_BITMASK_READ_ONLY) != 0) return SLA2_E_ARGUMENT;
  return sla2_tensor_from_dltensor(tensor, &source->dl_tensor);
}
#endif

/** DLTensor view of a sla2_tensor; shape and strides point into `tensor`, which must outlive the view.
 *  @return SLA2_OK | SLA2_E_ARGUMENT (NULL, ndim not 1 to SLA2_TENSOR_MAX_DIMS). One thread at a time per view. @since 0.1 */
static inline sla2_status sla2_tensor_to_dltensor(sla2_tensor* tensor, DLTensor* target) {
  if (tensor == NULL || target == NULL || tensor->ndim < 1 || tensor->ndim > SLA2_TENSOR_MAX_DIMS) return SLA2_E_ARGUMENT;
  target->data = tensor->data;
  target->device.device_type = (DLDeviceType)tensor->device_type;
  target->device.device_id = tensor->device_id;
  target->ndim = tensor->ndim;
  target->dtype.code = tensor->dtype_code;
  target->dtype.bits = tensor->dtype_bits;
  target->dtype.lanes = tensor->dtype_lanes;
  target->shape = tensor->shape;
  target->strides = tensor->strides;
  target->byte_offset = 0;
  return SLA2_OK;
}

#endif /* DLPack was included first */
#endif /* SLA2_DLPACK_H */
