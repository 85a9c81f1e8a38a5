// SPDX-License-Identifier: Apache-2.0
#include "device/driver.h"

#include "core/core.h"
#include "device/library.h"

namespace sla2::device {
namespace {

// The name that the driver package installs for programs; libcuda.so belongs to the toolkit's stubs.
#ifdef _WIN32
constexpr const char* kLibrary = "nvcuda.dll";
#else
constexpr const char* kLibrary = "libcuda.so.1";
#endif

Driver open_driver() {
  Driver d;
  void* const library = open_library(kLibrary);
  if (library == nullptr) {
    d.missing = fmt::format("no NVIDIA driver: {} cannot be opened", kLibrary);
    return d;
  }
  const auto find = [&](auto& member, const char* name) {
    find_function(library, name, member);
    if (member == nullptr && d.missing.empty()) d.missing = fmt::format("the NVIDIA driver is too old: it has no {}", name);
  };
#define SLA2_DRIVER_FIND(member, name, parameters) find(d.member, name);
  SLA2_DRIVER_FUNCTIONS(SLA2_DRIVER_FIND)
#undef SLA2_DRIVER_FIND
  if (!d.missing.empty()) return d;
  const CuResult started = d.init(0);
  if (started != kCuSuccess) d.missing = fmt::format("the NVIDIA driver does not start: {}", d.text_of(started));
  return d;
}

}  // namespace

std::string Driver::text_of(CuResult result) const {
  const char* text = nullptr;
  if (error_string == nullptr || error_string(result, &text) != kCuSuccess || text == nullptr) text = "unknown error";
  return fmt::format("{} (CUDA error {})", text, result);
}

const Driver& driver() {
  static const Driver opened = open_driver();
  return opened;
}

}  // namespace sla2::device
