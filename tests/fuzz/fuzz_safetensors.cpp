// SPDX-License-Identifier: Apache-2.0
// Whole files: opened as a checkpoint, every tensor read. Only sla2::Error may come out, and every tensor that the header
// promises must be readable.
#include <cstdint>
#include <cstdlib>
#include <map>
#include <string>
#include <vector>

#include "memory_file.h"
#include "weights/weights.h"

namespace {

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
