// SPDX-License-Identifier: Apache-2.0
// The functions of the CUDA driver API that the library calls, found in libcuda at run time. Types as in cuda.h, which is not
// needed to build; names and numbers: CUDA Driver API reference.
#pragma once
#include <cstddef>
#include <string>

namespace sla2::device {

using CuResult = int;
using CuDevice = int;
using CuContext = void*;
using CuModule = void*;
using CuFunction = void*;
using CuStream = void*;
using CuEvent = void*;
using CuAddress = unsigned long long;

inline constexpr CuResult kCuSuccess = 0, kCuOutOfMemory = 2;
/// CUdevice_attribute.
inline constexpr int kMultiprocessors = 16, kMajor = 75, kMinor = 76, kSharedPerBlockOptIn = 97;
/// CUfunction_attribute: dynamic shared memory a kernel may be given.
inline constexpr int kMaxDynamicShared = 8;
/// CUstream_flags: not ordered with the default stream. CUmemHostAlloc flags: pinned for every context.
inline constexpr unsigned kStreamNonBlocking = 1, kPortable = 1;

/// X(member, exported name, parameters)
#define SLA2_DRIVER_FUNCTIONS(X)                                                                                  \
  X(init, "cuInit", (unsigned))                                                                                   \
  X(driver_version, "cuDriverGetVersion", (int*))                                                                 \
  X(error_string, "cuGetErrorString", (CuResult, const char**))                                                   \
  X(device_count, "cuDeviceGetCount", (int*))                                                                     \
  X(device_get, "cuDeviceGet", (CuDevice*, int))                                                                  \
  X(device_name, "cuDeviceGetName", (char*, int, CuDevice))                                                       \
  X(device_attribute, "cuDeviceGetAttribute", (int*, int, CuDevice))                                              \
  X(device_memory, "cuDeviceTotalMem_v2", (size_t*, CuDevice))                                                    \
  X(context_retain, "cuDevicePrimaryCtxRetain", (CuContext*, CuDevice))                                           \
  X(context_push, "cuCtxPushCurrent_v2", (CuContext))                                                             \
  X(context_pop, "cuCtxPopCurrent_v2", (CuContext*))                                                              \
  X(module_load, "cuModuleLoadData", (CuModule*, const void*))                                                    \
  X(module_function, "cuModuleGetFunction", (CuFunction*, CuModule, const char*))                                 \
  X(function_attribute, "cuFuncSetAttribute", (CuFunction, int, int))                                             \
  X(launch, "cuLaunchKernel",                                                                                     \
    (CuFunction, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, CuStream, void**, void**)) \
  X(allocate, "cuMemAlloc_v2", (CuAddress*, size_t))                                                              \
  X(release, "cuMemFree_v2", (CuAddress))                                                                         \
  X(copy_in, "cuMemcpyHtoD_v2", (CuAddress, const void*, size_t))                                                 \
  X(copy_out, "cuMemcpyDtoH_v2", (void*, CuAddress, size_t))                                                      \
  X(stream_wait, "cuStreamSynchronize", (CuStream))                                                               \
  X(memory_info, "cuMemGetInfo_v2", (size_t*, size_t*))                                                           \
  X(host_allocate, "cuMemHostAlloc", (void**, size_t, unsigned))                                                  \
  X(host_release, "cuMemFreeHost", (void*))                                                                       \
  X(queue_copy_in, "cuMemcpyHtoDAsync_v2", (CuAddress, const void*, size_t, CuStream))                            \
  X(queue_copy_out, "cuMemcpyDtoHAsync_v2", (void*, CuAddress, size_t, CuStream))                                 \
  X(queue_fill, "cuMemsetD8Async", (CuAddress, unsigned char, size_t, CuStream))                                  \
  X(stream_create, "cuStreamCreate", (CuStream*, unsigned))                                                       \
  X(stream_destroy, "cuStreamDestroy_v2", (CuStream))                                                             \
  X(stream_wait_event, "cuStreamWaitEvent", (CuStream, CuEvent, unsigned))                                        \
  X(event_create, "cuEventCreate", (CuEvent*, unsigned))                                                          \
  X(event_destroy, "cuEventDestroy_v2", (CuEvent))                                                                \
  X(event_record, "cuEventRecord", (CuEvent, CuStream))                                                           \
  X(event_wait, "cuEventSynchronize", (CuEvent))                                                                  \
  X(event_elapsed, "cuEventElapsedTime", (float*, CuEvent, CuEvent))

struct Driver {
#define SLA2_DRIVER_MEMBER(member, name, parameters) CuResult(*member) parameters = nullptr;
  SLA2_DRIVER_FUNCTIONS(SLA2_DRIVER_MEMBER)
#undef SLA2_DRIVER_MEMBER
  std::string missing;  ///< why it cannot be used; empty: it was started

  [[nodiscard]] std::string text_of(CuResult result) const;
};

/// Opened and started when first asked for; stays open.
[[nodiscard]] const Driver& driver();

}  // namespace sla2::device
