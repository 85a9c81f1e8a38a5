// SPDX-License-Identifier: Apache-2.0
#include "device/library.h"

#ifdef _WIN32
#define WIN32_LEAN_AND_MEAN
#include <windows.h>
#else
#include <dlfcn.h>
#endif

namespace sla2::device {

#ifdef _WIN32
void* open_library(const char* name, bool loaded_only) noexcept {
  return loaded_only ? static_cast<void*>(GetModuleHandleA(name)) : static_cast<void*>(LoadLibraryA(name));
}
void* find_symbol(void* library, const char* name) noexcept {
  return reinterpret_cast<void*>(GetProcAddress(static_cast<HMODULE>(library), name));
}
#else
void* open_library(const char* name, bool loaded_only) noexcept {
  return ::dlopen(name, RTLD_NOW | RTLD_LOCAL | (loaded_only ? RTLD_NOLOAD : 0));
}
void* find_symbol(void* library, const char* name) noexcept { return ::dlsym(library, name); }
#endif

}  // namespace sla2::device
