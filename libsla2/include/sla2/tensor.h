/* SPDX-License-Identifier: Apache-2.0 */
/** @file tensor.h  A view on somebody's numbers: element type, shape, strides, device. Owns nothing. */
#ifndef SLA2_TENSOR_H
#define SLA2_TENSOR_H

#include "sla2/base.h"

#ifdef __cplusplus
extern "C" {
#endif

/** Element type codes; equal to DLPack's kDLInt … so that conversion is a copy. */
enum { SLA2_DTYPE_INT = 0, SLA2_DTYPE_UINT = 1, SLA2_DTYPE_FLOAT = 2, SLA2_DTYPE_BFLOAT = 4, SLA2_DTYPE_BOOL = 6 };

/** Device types; equal to DLPack's. 0 is unset. */
enum { SLA2_DEVICE_CPU = 1, SLA2_DEVICE_CUDA = 2 };

#define SLA2_TENSOR_MAX_DIMS 6

/** View on an array. Frozen for this major version; spare bytes must be zero.
 *  data is aligned to 16 bytes; strides count elements, not bytes. */
typedef struct sla2_tensor {
  uint32_t struct_size;
  uint8_t dtype_code;  /**< SLA2_DTYPE_* */
  uint8_t dtype_bits;  /**< 8, 16, 32 or 64 */
  uint16_t dtype_lanes; /**< 1 */
  void *data;          /**< borrowed */
  int32_t ndim;
  int32_t device_type; /**< SLA2_DEVICE_* */
  int32_t device_id;
  int32_t reserved;
  int64_t shape[SLA2_TENSOR_MAX_DIMS];
  int64_t strides[SLA2_TENSOR_MAX_DIMS]; /**< elements */
} sla2_tensor;

/** Zero the view, set struct_size, device CPU, lanes 1. `size` is sizeof(sla2_tensor) of the caller.
 *  @return SLA2_OK | SLA2_E_ARGUMENT (tensor is NULL, size too small). @since 0.1 */
SLA2_API sla2_status sla2_tensor_init(sla2_tensor *tensor, uint32_t size);

/** Describe a contiguous CPU array, last axis fastest, in a view from sla2_tensor_init(). data borrowed, 16-byte aligned.
 *  @return SLA2_OK | SLA2_E_ARGUMENT (NULL, alignment, unknown element type, ndim not 1 to 6, extent < 1). @since 0.1 */
SLA2_API sla2_status sla2_tensor_set_contiguous(sla2_tensor *tensor, void *data, uint8_t dtype_code, uint8_t dtype_bits,
                                                int32_t ndim, const int64_t *shape);

/** Where and how work runs. */
typedef struct sla2_exec {
  uint32_t struct_size;
  int32_t device_type; /**< SLA2_DEVICE_CPU (default) */
  int32_t device_id;   /**< 0 */
  int32_t threads;     /**< CPU threads; 0: all this process may use */
  void *stream;        /**< CUDA stream; NULL on the CPU */
} sla2_exec;

/** Set struct_size and defaults (CPU, all threads). @return SLA2_OK | SLA2_E_ARGUMENT. @since 0.1 */
SLA2_API sla2_status sla2_exec_init(sla2_exec *exec, uint32_t size);

#ifdef __cplusplus
}
#endif
#endif /* SLA2_TENSOR_H */
