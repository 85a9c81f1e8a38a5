// SPDX-License-Identifier: Apache-2.0
// Control groups after the kernel's Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst: a group's memory is bounded
// by its own limit and by those of all groups above it.
#include "core/memory.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <limits>
#include <string_view>

#include "core/caps.h"

namespace sla2 {

namespace {

namespace fs = std::filesystem;

/// The number behind a word of a file of such pairs; 0 if it is not there.
uint64_t number_after(const std::string& path, std::string_view word) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    if (!std::string_view(line).starts_with(word)) continue;
    const size_t digit = line.find_first_of("0123456789", word.size());
    return digit == std::string::npos ? 0 : std::strtoull(line.c_str() + digit, nullptr, 10);
  }
  return 0;
}

/// "Key:   123 kB" in a /proc file, in bytes; 0 if absent.
uint64_t proc_kilobytes(const std::string& path, std::string_view key) { return number_after(path, key) * 1024; }

constexpr uint64_t kUnlimited = std::numeric_limits<uint64_t>::max();

/// A file with one number; `otherwise` where there is no such file or it says "max".
uint64_t single_number(const fs::path& path, uint64_t otherwise) {
  std::ifstream file(path);
  uint64_t value = 0;
  return file >> value ? value : otherwise;
}

/// How one version of control groups is laid out.
struct Layout {
  const char* mount;       ///< of the groups' folders
  const char* controller;  ///< in the lines of /proc/self/cgroup; "" is version 2's own line
  const char *limit, *used, *cache;
};

constexpr std::array<Layout, 3> kLayouts{{
    {"/sys/fs/cgroup", "", "memory.max", "memory.current", "inactive_file "},
    {"/sys/fs/cgroup/unified", "", "memory.max", "memory.current", "inactive_file "},  // both versions at once
    {"/sys/fs/cgroup/memory", "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file "},
}};

/// "/a/b" of "4:memory:/a/b", or of version 2's "0::/a/b"; "/" where it cannot be told or lies outside of what we see.
fs::path own_group(const std::string& root, const Layout& layout) {
  std::ifstream file(root + "/proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
    const bool ours = *layout.controller == '\0'
                          ? controllers == ",,"
                          : controllers.find("," + std::string(layout.controller) + ",") != std::string::npos;
    if (!ours) continue;
    const fs::path group = fs::path(line.substr(second + 1)).lexically_normal();
    return group.is_absolute() && line.find("/..") == std::string::npos ? group : fs::path("/");
  }
  return "/";
}

struct Bounds {
  uint64_t limit = kUnlimited, free = kUnlimited;
};

/// The tightest of our group and those above it. In a container the mount may begin at our group, whatever its name: folders that
/// are not there are passed over, the mount's own is always looked at.
Bounds group_bounds(const std::string& root) {
  Bounds bounds;
  for (const Layout& layout : kLayouts) {
    for (fs::path group = own_group(root, layout);; group = group.parent_path()) {
      const fs::path folder = fs::path(root + layout.mount) / group.relative_path();
      const uint64_t limit = single_number(folder / layout.limit, kUnlimited);
      if (limit != kUnlimited) {
        const uint64_t used = single_number(folder / layout.used, 0);
        const uint64_t cache = number_after((folder / "memory.stat").string(), layout.cache);
        const uint64_t held = used - std::min(cache, used);
        bounds.limit = std::min(bounds.limit, limit);
        bounds.free = std::min(bounds.free, limit - std::min(held, limit));
      }
      if (group == group.root_path() || group.empty()) break;
    }
  }
  return bounds;
}

}  // namespace

MemoryBounds memory_bounds(const std::string& root) {
  const Bounds groups = group_bounds(root);
  const std::string machine = root + "/proc/meminfo";
  return {std::min(proc_kilobytes(machine, "MemTotal:"), groups.limit),
          std::min(proc_kilobytes(machine, "MemAvailable:"), groups.free)};
}

uint64_t total_memory_bytes() noexcept { return memory_bounds({}).total; }
uint64_t available_memory_bytes() noexcept { return memory_bounds({}).available; }
uint64_t peak_resident_bytes() noexcept { return proc_kilobytes("/proc/self/status", "VmHWM:"); }
uint64_t resident_bytes() noexcept { return proc_kilobytes("/proc/self/status", "VmRSS:"); }

}  // namespace sla2
