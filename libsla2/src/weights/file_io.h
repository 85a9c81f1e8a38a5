// SPDX-License-Identifier: Apache-2.0
// Read-only access to a regular file through pread(2).
//
// Why there is no mmap: a file that shrinks while mapped (a download that restarts, a share that goes away) raises SIGBUS
// in whoever touches the page, and a library must not install a signal handler in its host. Every reader here converts or
// copies anyway, so a mapping would have to be copied through a call that reports instead of killing. Measured on a cached
// 400 MB file, one core: pread 12 GB/s, process_vm_readv from a mapping 6 GB/s. The page cache is shared either way.
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace sla2::weights {

class InputFile {
 public:
  /// Throws FILE_NOT_FOUND, or FILE_READ for folders, devices and missing permission.
  explicit InputFile(std::string path);
  ~InputFile();
  InputFile(const InputFile&) = delete;
  InputFile& operator=(const InputFile&) = delete;

  [[nodiscard]] const std::string& path() const noexcept { return path_; }
  [[nodiscard]] uint64_t size() const noexcept { return size_; }  ///< when opened
  /// Fill `target` from `offset`. Any thread. Throws FILE_READ if the bytes are not there any more.
  void read(uint64_t offset, std::span<std::byte> target) const;
  /// Tell the system that this range is wanted soon. Never fails.
  void will_need(uint64_t offset, uint64_t bytes) const noexcept;

 private:
  [[noreturn]] void fail_short(uint64_t wanted_end) const;

  std::string path_;
  int descriptor_ = -1;
  uint64_t size_ = 0;
};

/// "5.7 GB", "812 bytes": sizes for people (decimal units, as download pages print them).
std::string size_text(uint64_t bytes);

}  // namespace sla2::weights
