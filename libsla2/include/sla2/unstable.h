/* SPDX-License-Identifier: Apache-2.0 */
/** @file unstable.h  Declarations that may change in any version. To use them, say so: #define SLA2_UNSTABLE before including.
 *
 *  A function enters here, proves itself for a minor version, and then moves to a stable header with its name unchanged.
 *  At this version: attention on GPUs.
 */
#ifndef SLA2_UNSTABLE_H
#define SLA2_UNSTABLE_H

#ifndef SLA2_UNSTABLE
#error "sla2/unstable.h may change in any version; #define SLA2_UNSTABLE before including it if you accept that"
#endif

#include "sla2/attention.h"

#ifdef __cplusplus
extern "C" {
#endif

/** sla2_attention_create() on a device. Calls on such a plan take tensors, parameters, lists and workspace in its memory, and an
 *  sla2_exec that names it and the stream; they queue their work on that stream and return: nothing is allocated, nothing waits,
 *  the current CUDA context stays what it was, and calls may be captured into a CUDA graph. A call with a probe waits for its
 *  end. Statistics are those of the last call that the GPU has finished. Given lists and masks are not checked. No gradients.
 *  @param device_type  SLA2_DEVICE_CPU: as sla2_attention_create(); SLA2_DEVICE_CUDA
 *  @param device_id    number of the GPU
 *  @return SLA2_OK | SLA2_E_ARGUMENT | SLA2_E_VERSION | SLA2_E_UNSUPPORTED (not built for GPUs; the text says what to change) |
 *          SLA2_E_DEVICE (no driver, no GPU, no kernels in this build) | SLA2_E_MEMORY. Any thread. @since 0.1 (unstable) */
SLA2_API sla2_status sla2_attention_create_on(const sla2_attention_config *config, int32_t device_type, int32_t device_id,
                                              sla2_attention **plan);

#ifdef __cplusplus
}
#endif

#endif /* SLA2_UNSTABLE_H */
