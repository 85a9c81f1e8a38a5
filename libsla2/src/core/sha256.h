// SPDX-License-Identifier: Apache-2.0
// SHA-256 (FIPS 180-4): names contents so that other programs (sha256sum, Python's hashlib) give the same name.
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace sla2 {

class Sha256 {
 public:
  void add(std::span<const std::byte> bytes) noexcept;
  void add(std::string_view text) noexcept { add(std::as_bytes(std::span(text.data(), text.size()))); }
  /// 64 hexadecimal digits, lower case. Once; nothing is added afterwards.
  [[nodiscard]] std::string hex();

 private:
  static constexpr size_t kBlock = 64;
  void compress(const std::byte* block) noexcept;

  std::array<uint32_t, 8> state_{0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  std::array<std::byte, kBlock> rest_{};
  size_t rest_bytes_ = 0;
  uint64_t total_ = 0;
};

}  // namespace sla2
