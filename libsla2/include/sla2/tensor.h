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

/** Axes a view can have. */
#define SLA2_TENSOR_MAX_DIMS 6

/** View on an array. Frozen for this major version; spare bytes must be zero.
 *  data is aligned to 16 bytes; strides count elements, not bytes. The memory stays yours. @since 0.1 */
typedef struct sla2_tensor {
  uint32_t struct_size;
  uint8_t dtype_code;  /**< SLA2_DTYPE_* */
  uint8_t dtype_bits;  /**< 8, 16, 32 or 64 */
  uint16_t dtype_lanes; /**< 1 */
  void *data;          /**< borrowed */
  int32_t ndim;        /**< 1 to SLA2_TENSOR_MAX_DIMS */
  int32_t device_type; /**< SLA2_DEVICE_* */
  int32_t device_id;   /**< 0 on the CPU */
  int32_t reserved;    /**< 0 */
  int64_t shape[SLA2_TENSOR_MAX_DIMS];   /**< elements, each >= 1 */
  int64_t strides[SLA2_TENSOR_MAX_DIMS]; /**< elements */
} sla2_tensor;

/** Zero the view, set struct_size, device CPU, lanes 1. `size` is sizeof(sla2_tensor) of the caller.
 *  @return SLA2_OK | SLA2_E_ARGUMENT (NULL, size too small). Any thread. @since 0.1 */
SLA2_API sla2_status sla2_tensor_init(sla2_tensor *tensor, uint32_t size);

/** Describe a contiguous CPU array, last axis fastest, in a view from sla2_tensor_init(). data borrowed, 16-byte aligned.
 *  @return SLA2_OK | SLA2_E_ARGUMENT (NULL, alignment, unknown element type, ndim not 1 to 6, extent < 1, more
 *  than 2^63 elements). One thread at a time per view. @since 0.1 */
SLA2_API sla2_status sla2_tensor_set_contiguous(sla2_tensor *tensor, void *data, uint8_t dtype_code, uint8_t dtype_bits,
                                                int32_t ndim, const int64_t *shape);

/** One task of a call: 0 <= index < count, 0 <= worker < workers. Calls with the same worker must not overlap. @since 0.1 */
typedef void (*sla2_task_fn)(void *arg, int64_t index, int32_t worker);

/** A host's threads: call task(arg, i, worker) once for each i in [0, count), in any order, on any threads, and return when all
 *  have returned. Called on the thread of the sla2 call, several times per call, with no lock held. Results are the same bits as
 *  with the library's own threads. @since 0.1 */
typedef void (*sla2_run_fn)(void *user, sla2_task_fn task, void *arg, int64_t count, int32_t workers);

/** Where and how an attention call runs. @since 0.1 */
typedef struct sla2_exec {
  uint32_t struct_size;
  int32_t device_type; /**< SLA2_DEVICE_CPU (default) */
  int32_t device_id;   /**< 0 */
  int32_t threads;     /**< CPU threads, or most workers of `run`; 0: as many as this process may use */
  void *stream;        /**< CUDA stream; NULL on the CPU */
  sla2_run_fn run;     /**< NULL (default): the library's own threads; CPU only */
  void *run_user;      /**< first argument of `run` */
} sla2_exec;

/** Set struct_size and defaults (CPU, all threads). @return SLA2_OK | SLA2_E_ARGUMENT (NULL, impossible size). Any thread.
 *  @since 0.1 */
SLA2_API sla2_status sla2_exec_init(sla2_exec *exec, uint32_t size);

#ifdef __cplusplus
}
#endif
#endif /* SLA2_TENSOR_H */
