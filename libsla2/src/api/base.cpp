// SPDX-License-Identifier: Apache-2.0
// base.h: version, status names, error text, log sink, allocator, what this machine offers.
#include <sla2/base.h>
#include <utf8proc.h>

#include <nlohmann/json.hpp>
#include <oneapi/dnnl/dnnl.hpp>

#include "api/guard.h"
#include "api/struct_size.h"
#include "core/allocator.h"
#include "core/caps.h"
#include "core/cpu_features.h"
#include "core/log.h"
#include "core/threads.h"
#include "device/device.h"

#define SLA2_TEXT_OF(x) #x
#define SLA2_TEXT(x) SLA2_TEXT_OF(x)

namespace {

constexpr const char* kAllocatorName = "sla2_allocator";

std::string system_info_json() {
  const dnnl_version_t* dnn = dnnl_version();
  nlohmann::ordered_json info;
  info["version"] = sla2_version();
  info["abi_version"] = SLA2_ABI_VERSION;
  info["cpu"] = sla2::cpu_name();
  info["isa"] = sla2::isa_name(sla2::active_isa());
  info["isa_complaint"] = sla2::isa_complaint();
  info["fast_bf16"] = sla2::has_fast_bf16();
  info["cpu_features"] = nlohmann::ordered_json::array();
  for (const sla2::CpuFeature& one : sla2::cpu_features())
    info["cpu_features"].push_back({{"name", one.name}, {"present", one.present}, {"enables", one.enables}});
  info["threads"] = sla2::physical_threads();
  info["memory_total_bytes"] = sla2::total_memory_bytes();
  info["memory_available_bytes"] = sla2::available_memory_bytes();
  info["devices"] = {"cpu"};
  const sla2::device::Report& gpus = sla2::device::report();
  info["cuda"] = {{"kernels_built", gpus.kernels_built},
                  {"driver_found", gpus.driver_found},
                  {"driver_version", gpus.driver_version},
                  {"missing", gpus.missing}};
  info["cuda"]["gpus"] = nlohmann::ordered_json::array();
  for (const sla2::device::GpuInfo& gpu : gpus.gpus)
    info["cuda"]["gpus"].push_back({{"name", gpu.name},
                                    {"compute_capability", gpu.architecture},
                                    {"memory_bytes", gpu.memory_bytes},
                                    {"multiprocessors", gpu.multiprocessors}});
  info["libraries"]["onednn"] = fmt::format("{}.{}.{}", dnn->major, dnn->minor, dnn->patch);
  info["libraries"]["sentencepiece"] = SLA2_SENTENCEPIECE_VERSION;
  info["libraries"]["utf8proc"] = utf8proc_version();
  info["compiler"] = __VERSION__;
  return info.dump(2);
}

}  // namespace

extern "C" {

const char* sla2_version(void) {
  return SLA2_TEXT(SLA2_VERSION_MAJOR) "." SLA2_TEXT(SLA2_VERSION_MINOR) "." SLA2_TEXT(SLA2_VERSION_PATCH);
}

uint32_t sla2_abi_version(void) { return SLA2_ABI_VERSION; }

const char* sla2_status_name(sla2_status status) {
  switch (status) {
#define SLA2_CASE(name) \
  case name: return #name;
    SLA2_CASE(SLA2_OK)
    SLA2_CASE(SLA2_E_ARGUMENT)
    SLA2_CASE(SLA2_E_STATE)
    SLA2_CASE(SLA2_E_VERSION)
    SLA2_CASE(SLA2_E_FILE_NOT_FOUND)
    SLA2_CASE(SLA2_E_FILE_READ)
    SLA2_CASE(SLA2_E_FILE_WRITE)
    SLA2_CASE(SLA2_E_FILE_FORMAT)
    SLA2_CASE(SLA2_E_MEMORY)
    SLA2_CASE(SLA2_E_DEVICE)
    SLA2_CASE(SLA2_E_MODEL_MISMATCH)
    SLA2_CASE(SLA2_E_UNSUPPORTED)
    SLA2_CASE(SLA2_E_CANCELLED)
    SLA2_CASE(SLA2_E_NUMERIC)
    SLA2_CASE(SLA2_E_INTERNAL)
#undef SLA2_CASE
    default: return "SLA2_E_UNKNOWN";
  }
}

const char* sla2_last_error(void) { return sla2::api::last_error(); }

void sla2_log_set(sla2_log_fn sink, void* user) { sla2::set_log_sink(sink, user); }

sla2_status sla2_allocator_init(sla2_allocator* allocator, uint32_t size) {
  return sla2::api::guard([&] { sla2::api::init_struct(allocator, size, sla2_allocator{}, kAllocatorName); });
}

sla2_status sla2_allocator_set(const sla2_allocator* allocator) {
  return sla2::api::guard([&] {
    sla2_allocator own{};
    if (allocator != nullptr) {
      own = sla2::api::read_struct(allocator, sla2_allocator{}, kAllocatorName);
      SLA2_CHECK(own.allocate != nullptr && own.release != nullptr, SLA2_E_ARGUMENT,
                 "sla2_allocator_set: `{}` is NULL; give both functions, or pass NULL for the default allocator",
                 own.allocate == nullptr ? "allocate" : "release");
      SLA2_CHECK(own.reserved == 0, SLA2_E_VERSION, "sla2_allocator: `reserved` is {}; expected 0", own.reserved);
    }
    sla2::set_host_allocator(own);
  });
}

uint64_t sla2_system_info(char* buffer, uint64_t capacity) { return sla2::api::guard_text(buffer, capacity, system_info_json); }

}  // extern "C"
