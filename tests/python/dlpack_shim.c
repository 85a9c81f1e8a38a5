/* SPDX-License-Identifier: Apache-2.0 */
/* The header-only DLPack conversions as functions that ctypes can call; dlpack.h is PyTorch's own copy. */
#include <dlpack.h>
#include <stdlib.h>

#include "sla2/dlpack.h"

int shim_from(sla2_tensor* tensor, const DLManagedTensorVersioned* source, int written) {
  return (int)sla2_tensor_from_dlpack(tensor, source, written);
}

int shim_from_plain(sla2_tensor* tensor, const DLTensor* source) { return (int)sla2_tensor_from_dltensor(tensor, source); }

static void release(DLManagedTensor* managed) {
  free(managed->manager_ctx);
  free(managed);
}

/* A tensor PyTorch can take over: the view's shape and strides live in a copy of `tensor` that the deleter frees. */
DLManagedTensor* shim_lend(const sla2_tensor* tensor) {
  DLManagedTensor* managed = calloc(1, sizeof *managed);
  sla2_tensor* kept = malloc(sizeof *kept);
  if (managed == NULL || kept == NULL) abort();
  *kept = *tensor;
  if (sla2_tensor_to_dltensor(kept, &managed->dl_tensor) != SLA2_OK) abort();
  managed->manager_ctx = kept;
  managed->deleter = release;
  return managed;
}
