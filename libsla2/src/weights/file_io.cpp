// SPDX-License-Identifier: Apache-2.0
#include "weights/file_io.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <system_error>
#include <utility>

#include "core/error.h"

namespace sla2::weights {
namespace {

constexpr size_t kMaxRead = size_t{1} << 30;  // one read(2) moves at most 0x7ffff000 bytes

std::string errno_text(int code) { return std::generic_category().message(code); }

}  // namespace

std::string size_text(uint64_t bytes) {
  constexpr std::array<const char*, 4> kUnits{"kB", "MB", "GB", "TB"};
  constexpr double kStep = 1000;
  if (bytes < 1000) return fmt::format("{} bytes", bytes);
  double value = static_cast<double>(bytes) / kStep;
  size_t unit = 0;
  while (value >= 999.95 && unit + 1 < kUnits.size()) {
    value /= kStep;
    ++unit;
  }
  return fmt::format("{:.1f} {}", value, kUnits[unit]);
}

InputFile::InputFile(std::string path) : path_(std::move(path)) {
  struct stat status {};
  // stat before open: opening a FIFO or a device can block or have effects.
  if (::stat(path_.c_str(), &status) != 0) {
    const int code = errno;
    if (code == ENOENT || code == ENOTDIR) fail(SLA2_E_FILE_NOT_FOUND, "{}: no such file; check the path", path_);
    fail(SLA2_E_FILE_READ, "{}: cannot be opened: {}", path_, errno_text(code));
  }
  SLA2_CHECK(S_ISREG(status.st_mode), SLA2_E_FILE_READ, "{}: expected a regular file, got {}", path_,
             S_ISDIR(status.st_mode) ? "a folder" : "a device or a pipe");
  descriptor_ = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (descriptor_ < 0) {
    const int code = errno;
    fail(code == ENOENT ? SLA2_E_FILE_NOT_FOUND : SLA2_E_FILE_READ, "{}: cannot be opened: {}", path_, errno_text(code));
  }
  if (::fstat(descriptor_, &status) != 0 || !S_ISREG(status.st_mode)) {
    ::close(descriptor_);
    fail(SLA2_E_FILE_READ, "{}: changed while being opened; try again", path_);
  }
  size_ = static_cast<uint64_t>(status.st_size);
}

InputFile::~InputFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

void InputFile::fail_short(uint64_t wanted_end) const {
  struct stat status {};
  const uint64_t now = ::fstat(descriptor_, &status) == 0 ? static_cast<uint64_t>(status.st_size) : 0;
  fail(SLA2_E_FILE_READ, "{}: shrank while in use: {} bytes are needed, {} are left of {}; copy or download the file again",
       path_, wanted_end, now, size_);
}

void InputFile::read(uint64_t offset, std::span<std::byte> target) const {
  if (offset > size_ || target.size() > size_ - offset) {
    fail(SLA2_E_FILE_READ, "{}: {} bytes at {} lie outside the file of {} bytes", path_, target.size(), offset, size_);
  }
  const uint64_t end = offset + target.size();
  while (!target.empty()) {
    const ssize_t got = ::pread(descriptor_, target.data(), std::min(target.size(), kMaxRead), static_cast<off_t>(offset));
    if (got < 0) {
      const int code = errno;
      if (code == EINTR) continue;
      fail(SLA2_E_FILE_READ, "{}: reading {} bytes at {} failed: {}", path_, target.size(), offset, errno_text(code));
    }
    if (got == 0) fail_short(end);
    offset += static_cast<uint64_t>(got);
    target = target.subspan(static_cast<size_t>(got));
  }
}

void InputFile::will_need(uint64_t offset, uint64_t bytes) const noexcept {
  ::posix_fadvise(descriptor_, static_cast<off_t>(offset), static_cast<off_t>(bytes), POSIX_FADV_WILLNEED);
}

}  // namespace sla2::weights
