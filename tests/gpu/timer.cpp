// SPDX-License-Identifier: Apache-2.0
#include "timer.h"

#include <dlfcn.h>

#include <chrono>

#include "core/core.h"
#include "device/device.h"
#include "device/driver.h"
#include "kernels/cuda/modules.h"

namespace sla2::gpu_check {
namespace {

using device::CuResult;

/// What only measuring needs of the driver. Names and numbers: CUDA Driver API reference.
struct Extra {
  CuResult (*event_create)(void**, unsigned) = nullptr;
  CuResult (*event_destroy)(void*) = nullptr;
  CuResult (*event_record)(void*, void*) = nullptr;
  CuResult (*event_wait)(void*) = nullptr;
  CuResult (*event_elapsed)(float*, void*, void*) = nullptr;
  CuResult (*function_value)(int*, int, void*) = nullptr;
  void* context = nullptr;

  static const Extra& of(int gpu) {
    static std::map<int, Extra> opened;
    Extra& extra = opened[gpu];
    if (extra.context != nullptr) return extra;
    const device::Driver& d = device::driver();
    SLA2_CHECK(d.missing.empty(), SLA2_E_DEVICE, "{}", d.missing);
    void* const library = ::dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    const auto find = [&](auto& member, const char* name) {
      member = reinterpret_cast<std::remove_reference_t<decltype(member)>>(::dlsym(library, name));
      SLA2_CHECK(member != nullptr, SLA2_E_DEVICE, "the NVIDIA driver has no {}", name);
    };
    find(extra.event_create, "cuEventCreate");
    find(extra.event_destroy, "cuEventDestroy_v2");
    find(extra.event_record, "cuEventRecord");
    find(extra.event_wait, "cuEventSynchronize");
    find(extra.event_elapsed, "cuEventElapsedTime");
    find(extra.function_value, "cuFuncGetAttribute");
    device::CuDevice device = 0;
    check(d.device_get(&device, gpu), "cuDeviceGet");
    check(d.context_retain(&extra.context, device), "cuDevicePrimaryCtxRetain");
    check(d.context_push(extra.context), "cuCtxPushCurrent");  // stays current: this program has one thread
    return extra;
  }
  static void check(CuResult result, const char* what) {
    SLA2_CHECK(result == device::kCuSuccess, SLA2_E_DEVICE, "{}: {}", what, device::driver().text_of(result));
  }
};

double now_ms() { return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

}  // namespace

Marks::Marks(int gpu) : gpu_(gpu) {
  if (gpu_ >= 0) (void)Extra::of(gpu_);
}
Marks::~Marks() {
  for (void* const event : events_) (void)Extra::of(gpu_).event_destroy(event);
}

size_t Marks::set() {
  if (gpu_ < 0) {
    if (next_ == times_.size()) times_.push_back(0);
    times_[next_] = now_ms();
    return next_++;
  }
  const Extra& x = Extra::of(gpu_);
  if (next_ == events_.size()) {
    events_.push_back(nullptr);
    Extra::check(x.event_create(&events_.back(), 0), "cuEventCreate");
  }
  Extra::check(x.event_record(events_[next_], nullptr), "cuEventRecord");
  return next_++;
}

double Marks::milliseconds(size_t first, size_t second) {
  if (gpu_ < 0) return times_[second] - times_[first];
  const Extra& x = Extra::of(gpu_);
  float elapsed = 0;
  Extra::check(x.event_wait(events_[second]), "cuEventSynchronize");
  Extra::check(x.event_elapsed(&elapsed, events_[first], events_[second]), "cuEventElapsedTime");
  return static_cast<double>(elapsed);
}

void TimedGpu::launch(const device::Launch& l) {
  if (!recording) return gpu_.launch(l);
  const size_t first = marks_.set();
  gpu_.launch(l);
  spans.push_back({l.kernel, first, marks_.set()});
}

KernelUse kernel_use(int gpu, const char* kernel) {
  const Extra& x = Extra::of(gpu);
  const device::Driver& d = device::driver();
  const char* const home = cuda::module_of(kernel);
  SLA2_CHECK(home != nullptr, SLA2_E_DEVICE, "no module has {}", kernel);
  static std::map<std::string, void*> modules;
  void*& module = modules[home];
  for (const device::Module& embedded : device::embedded_modules())
    if (module == nullptr && std::string(embedded.name) == home) Extra::check(d.module_load(&module, embedded.image), home);
  void* function = nullptr;
  Extra::check(d.module_function(&function, module, kernel), kernel);
  // CUfunction_attribute: 0 most threads, 1 static shared, 3 local, 4 registers, 6 binary version.
  KernelUse use;
  Extra::check(x.function_value(&use.most_threads, 0, function), kernel);
  Extra::check(x.function_value(&use.static_shared, 1, function), kernel);
  Extra::check(x.function_value(&use.local_bytes, 3, function), kernel);
  Extra::check(x.function_value(&use.registers, 4, function), kernel);
  Extra::check(x.function_value(&use.binary, 6, function), kernel);
  return use;
}

DeviceFacts device_facts(int gpu) {
  (void)Extra::of(gpu);
  const device::Driver& d = device::driver();
  const device::Report& report = device::report();
  const device::GpuInfo& info = report.gpus.at(static_cast<size_t>(gpu));
  device::CuDevice device = 0;
  Extra::check(d.device_get(&device, gpu), "cuDeviceGet");
  const auto value = [&](int which) {
    int x = 0;
    return d.device_attribute(&x, which, device) == device::kCuSuccess ? x : 0;
  };
  DeviceFacts f;
  f.name = info.name, f.architecture = info.architecture, f.multiprocessors = static_cast<int>(info.multiprocessors);
  f.driver = report.driver_version, f.memory_bytes = info.memory_bytes;
  // CUdevice_attribute.
  f.clock_khz = value(13), f.memory_clock_khz = value(36), f.bus_bits = value(37), f.l2_bytes = value(38);
  f.shared_per_multiprocessor = value(81), f.registers_per_multiprocessor = value(82), f.shared_per_block = value(97);
  return f;
}

}  // namespace sla2::gpu_check
