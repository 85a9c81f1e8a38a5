// SPDX-License-Identifier: Apache-2.0
// Whole files: opened as a checkpoint, every tensor read. Only sla2::Error may come out, and every tensor that the header
// promises must be readable.
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <map>
#include <string>
#include <vector>

#include "weights/weights.h"

namespace {

/// A file in memory: /proc/self/fd/N is a path the reader can open.
class MemoryFile {
 public:
  MemoryFile(const uint8_t* data, size_t size) : descriptor_(::memfd_create("fuzz", MFD_CLOEXEC)) {
    if (descriptor_ < 0 || ::write(descriptor_, data, size) != static_cast<ssize_t>(size)) std::abort();
  }
  ~MemoryFile() { ::close(descriptor_); }
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;
  [[nodiscard]] std::string path() const { return "/proc/self/fd/" + std::to_string(descriptor_); }

 private:
  int descriptor_;
};

void read_everything(const std::string& path) {
  constexpr int64_t kMostElements = 1 << 20;
  const auto checkpoint = sla2::weights::Checkpoint::open(path);
  std::vector<float> numbers;
  for (const std::string& name : checkpoint->names()) {
    const int64_t count = checkpoint->info(name).element_count();
    if (count > kMostElements) std::abort();  // a small input cannot hold that many
    numbers.resize(static_cast<size_t>(count));
    try {
      checkpoint->read_f32(name, {}, numbers);
    } catch (const sla2::Error& error) {
      // Storage we do not compute with, or a scale that is not finite; nothing else may fail after a header was accepted.
      if (error.status() != SLA2_E_UNSUPPORTED && error.status() != SLA2_E_FILE_FORMAT) std::abort();
    }
  }
  (void)checkpoint->digest();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const MemoryFile file(data, size);
  try {
    (void)sla2::weights::identify(file.path());
    read_everything(file.path());
  } catch (const sla2::Error&) {
  }
  // The header parser alone, without a length that must fit: reaches deeper than whole files do.
  try {
    constexpr uint64_t kDataBytes = 64;
    std::map<std::string, std::string> metadata;
    (void)sla2::weights::parse_header({reinterpret_cast<const char*>(data), size}, kDataBytes, "fuzz", &metadata);
  } catch (const sla2::Error&) {
  }
  return 0;
}
