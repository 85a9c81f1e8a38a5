// SPDX-License-Identifier: Apache-2.0
// GPUs of this machine: report, contexts, modules, launches.
#include <map>
#include <mutex>
#include <string_view>

#include "core/core.h"
#include "device/device.h"
#include "device/driver.h"
#include "kernels/cuda/modules.h"

namespace sla2::device {
namespace {

int attribute(const Driver& d, int which, CuDevice device) {
  int value = 0;
  return d.device_attribute(&value, which, device) == kCuSuccess ? value : 0;
}

GpuInfo describe(const Driver& d, CuDevice device) {
  GpuInfo info;
  char name[256] = {};
  size_t bytes = 0;
  if (d.device_name(name, sizeof name, device) == kCuSuccess) info.name = name;
  if (d.device_memory(&bytes, device) == kCuSuccess) info.memory_bytes = bytes;
  info.architecture = 10 * attribute(d, kMajor, device) + attribute(d, kMinor, device);
  info.multiprocessors = static_cast<uint32_t>(attribute(d, kMultiprocessors, device));
  return info;
}

Report look() {
  Report r;
  r.kernels_built = !embedded_modules().empty();
  const Driver& d = driver();
  r.driver_found = d.missing.empty();
  r.missing = d.missing;
  if (!r.driver_found) return r;
  int count = 0;
  (void)d.driver_version(&r.driver_version);
  (void)d.device_count(&count);
  for (int i = 0; i < count; ++i) {
    CuDevice device = 0;
    if (d.device_get(&device, i) == kCuSuccess) r.gpus.push_back(describe(d, device));
  }
  if (r.gpus.empty()) r.missing = "the NVIDIA driver sees no GPU";
  if (!r.kernels_built) r.missing = "this build has no CUDA kernels: configure with SLA2_BUILD_CUDA where nvcc is";
  return r;
}

/// The primary context of a device (torch's too) is current while this lives; then what was current is again.
class ContextScope {
 public:
  ContextScope(const Driver& d, CuContext context) : driver_(d) {
    const CuResult result = d.context_push(context);
    SLA2_CHECK(result == kCuSuccess, SLA2_E_DEVICE, "device: the context cannot be made current: {}", d.text_of(result));
  }
  ~ContextScope() {
    CuContext popped = nullptr;
    (void)driver_.context_pop(&popped);
  }
  ContextScope(const ContextScope&) = delete;
  ContextScope& operator=(const ContextScope&) = delete;

 private:
  const Driver& driver_;
};

class DriverGpu final : public Gpu {
 public:
  explicit DriverGpu(int number) : driver_(device::driver()), info_(report().gpus[static_cast<size_t>(number)]) {
    CuDevice device = 0;
    check(driver_.device_get(&device, number), "the GPU cannot be opened");
    check(driver_.context_retain(&context_, device), "the GPU's context cannot be made");
    shared_bytes_ = static_cast<uint32_t>(attribute(driver_, kSharedPerBlockOptIn, device));
  }
  [[nodiscard]] int architecture() const noexcept override { return info_.architecture; }
  [[nodiscard]] uint32_t multiprocessors() const noexcept override { return info_.multiprocessors; }
  [[nodiscard]] uint32_t shared_bytes() const noexcept override { return shared_bytes_; }

  void prepare(const char* kernel, uint32_t shared_bytes) override {
    const ContextScope scope(driver_, context_);
    const std::lock_guard<std::mutex> lock(guard_);
    Function& function = load(kernel);
    if (function.shared_bytes >= shared_bytes) return;
    check(driver_.function_attribute(function.handle, kMaxDynamicShared, static_cast<int>(shared_bytes)), kernel);
    function.shared_bytes = shared_bytes;
  }

  void launch(const Launch& l) override {
    const ContextScope scope(driver_, context_);
    CuFunction handle = nullptr;
    {
      const std::lock_guard<std::mutex> lock(guard_);
      const auto found = functions_.find(std::string_view(l.kernel));
      SLA2_CHECK(found != functions_.end(), SLA2_E_INTERNAL, "device: {} was not prepared", l.kernel);
      handle = found->second.handle;
    }
    void* params[] = {const_cast<void*>(l.params)};
    check(driver_.launch(handle, l.grid_x, l.grid_y, 1, l.threads, 1, 1, l.shared_bytes, l.stream, params, nullptr), l.kernel);
  }

  [[nodiscard]] const GpuInfo& info() const noexcept override { return info_; }
  [[nodiscard]] MemoryInfo memory() const override {
    const ContextScope scope(driver_, context_);
    size_t free = 0, total = 0;
    check(driver_.memory_info(&free, &total), "its memory cannot be asked for");
    return {free, total};
  }

  void* allocate(uint64_t bytes) override {
    const ContextScope scope(driver_, context_);
    CuAddress address = 0;
    const CuResult result = driver_.allocate(&address, bytes);
    if (result == kCuOutOfMemory) {
      size_t free = 0, total = 0;
      (void)driver_.memory_info(&free, &total);
      fail(SLA2_E_MEMORY, "device {}: {} bytes cannot be had; {} of {} are free", info_.name, bytes, free, total);
    }
    check(result, "memory cannot be allocated");
    return reinterpret_cast<void*>(address);
  }
  void release(void* memory) noexcept override {
    with_context([&] { (void)driver_.release(reinterpret_cast<CuAddress>(memory)); });
  }
  void* allocate_pinned(uint64_t bytes) override {
    const ContextScope scope(driver_, context_);
    void* memory = nullptr;
    const CuResult result = driver_.host_allocate(&memory, bytes, kPortable);
    SLA2_CHECK(result != kCuOutOfMemory, SLA2_E_MEMORY, "device {}: {} bytes of pinned memory cannot be had", info_.name, bytes);
    check(result, "pinned memory cannot be allocated");
    return memory;
  }
  void release_pinned(void* memory) noexcept override {
    with_context([&] { (void)driver_.host_release(memory); });
  }

  void copy_in(void* to, const void* from, uint64_t bytes) override {
    const ContextScope scope(driver_, context_);
    check(driver_.copy_in(reinterpret_cast<CuAddress>(to), from, bytes), "copying to the GPU failed");
    // From pageable memory it returns when the bytes have been staged; streams that are not ordered with the default one could
    // still read what was there before.
    check(driver_.stream_wait(nullptr), "copying to the GPU failed");
  }
  void copy_out(void* to, const void* from, uint64_t bytes) override {
    const ContextScope scope(driver_, context_);
    check(driver_.copy_out(to, reinterpret_cast<CuAddress>(from), bytes), "copying from the GPU failed");
  }
  void queue_copy_in(void* to, const void* from, uint64_t bytes, void* stream) override {
    const ContextScope scope(driver_, context_);
    check(driver_.queue_copy_in(reinterpret_cast<CuAddress>(to), from, bytes, stream), "copying to the GPU failed");
  }
  void queue_copy_out(void* to, const void* from, uint64_t bytes, void* stream) override {
    const ContextScope scope(driver_, context_);
    check(driver_.queue_copy_out(to, reinterpret_cast<CuAddress>(from), bytes, stream), "copying from the GPU failed");
  }
  void queue_fill(void* to, unsigned char byte, uint64_t bytes, void* stream) override {
    const ContextScope scope(driver_, context_);
    check(driver_.queue_fill(reinterpret_cast<CuAddress>(to), byte, bytes, stream), "memory cannot be filled");
  }

  void* create_stream() override {
    const ContextScope scope(driver_, context_);
    CuStream stream = nullptr;
    check(driver_.stream_create(&stream, kStreamNonBlocking), "a stream cannot be made");
    return stream;
  }
  void destroy_stream(void* stream) noexcept override {
    with_context([&] { (void)driver_.stream_destroy(stream); });
  }
  void wait(void* stream) override {
    const ContextScope scope(driver_, context_);
    check(driver_.stream_wait(stream), "work on the GPU failed");
  }
  void* create_event() override {
    const ContextScope scope(driver_, context_);
    CuEvent event = nullptr;
    check(driver_.event_create(&event, 0), "an event cannot be made");
    return event;
  }
  void destroy_event(void* event) noexcept override {
    with_context([&] { (void)driver_.event_destroy(event); });
  }
  void record(void* event, void* stream) override {
    const ContextScope scope(driver_, context_);
    check(driver_.event_record(event, stream), "an event cannot be recorded");
  }
  void wait_in_stream(void* stream, void* event) override {
    const ContextScope scope(driver_, context_);
    check(driver_.stream_wait_event(stream, event, 0), "a stream cannot wait for an event");
  }
  void wait_for(void* event) override {
    const ContextScope scope(driver_, context_);
    check(driver_.event_wait(event), "work on the GPU failed");
  }
  [[nodiscard]] bool takes_libraries() const noexcept override { return true; }
  void run_current(const std::function<void()>& body) override {
    const ContextScope scope(driver_, context_);
    body();
  }
  double seconds_between(void* first, void* second) override {
    constexpr double kMilli = 1e-3;
    const ContextScope scope(driver_, context_);
    float milliseconds = 0;
    check(driver_.event_elapsed(&milliseconds, first, second), "times cannot be had");
    return kMilli * static_cast<double>(milliseconds);
  }

 private:
  struct Function {
    CuFunction handle = nullptr;
    uint32_t shared_bytes = 48 * 1024;  // what needs no permission
  };

  /// For what may not throw: memory and handles are given back even while an error is on its way.
  template <typename Body>
  void with_context(const Body& body) noexcept {
    CuContext popped = nullptr;
    if (driver_.context_push(context_) != kCuSuccess) return;
    body();
    (void)driver_.context_pop(&popped);
  }
  void check(CuResult result, const char* what) const {
    SLA2_CHECK(result == kCuSuccess, SLA2_E_DEVICE, "device {}: {}: {}", info_.name, what, driver_.text_of(result));
  }

  Function& load(const char* kernel) {
    const auto found = functions_.find(std::string_view(kernel));
    if (found != functions_.end()) return found->second;
    const char* const name = cuda::module_of(kernel);
    SLA2_CHECK(name != nullptr, SLA2_E_INTERNAL, "device: no module has {}", kernel);
    CuModule& module = modules_[name];
    for (const Module& embedded : embedded_modules())
      if (module == nullptr && std::string_view(embedded.name) == name) check(driver_.module_load(&module, embedded.image), name);
    SLA2_CHECK(module != nullptr, SLA2_E_DEVICE, "device: module {} is not in this build", name);
    Function function;
    check(driver_.module_function(&function.handle, module, kernel), kernel);
    return functions_[kernel] = function;
  }

  const Driver& driver_;
  GpuInfo info_;
  CuContext context_ = nullptr;  // retained for the life of the process, as CUDA's own runtime does
  uint32_t shared_bytes_ = 0;
  std::mutex guard_;
  std::map<std::string, CuModule, std::less<>> modules_;
  std::map<std::string, Function, std::less<>> functions_;
};

}  // namespace

const Report& report() {
  static const Report seen = look();
  return seen;
}

Gpu& Gpu::get(int number) {
  const Report& r = report();
  SLA2_CHECK(r.missing.empty(), SLA2_E_DEVICE, "device: {}", r.missing);
  SLA2_CHECK(number >= 0 && number < static_cast<int>(r.gpus.size()), SLA2_E_ARGUMENT,
             "device: there is no GPU {}; expected 0 to {}", number, r.gpus.size() - 1);
  static std::mutex guard;
  static std::map<int, std::unique_ptr<DriverGpu>> gpus;
  const std::lock_guard<std::mutex> lock(guard);
  std::unique_ptr<DriverGpu>& gpu = gpus[number];
  if (!gpu) gpu = std::make_unique<DriverGpu>(number);
  return *gpu;
}

}  // namespace sla2::device
