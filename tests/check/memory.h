// SPDX-License-Identifier: Apache-2.0
// Memory that shows every misstep: guards around each block, gaps between rows, layouts of a case.
#pragma once
#include <algorithm>
#include <cstring>

#include "attention/attention.h"
#include "case.h"
#include "gpu.h"

namespace sla2::check {

inline constexpr size_t kGuard = 256;
inline constexpr unsigned char kCanary = 0xA5, kNan = 0xFF;  // 0xFF in every byte is a NaN of fp32, bf16 and fp16

inline DType dtype_of(Element type) {
  return type == Element::kBf16 ? DType::kBF16 : type == Element::kF16 ? DType::kF16 : DType::kF32;
}

inline void store(double value, Element type, std::byte* at) {
  const auto single = static_cast<float>(value);
  const uint16_t half = type == Element::kBf16 ? f32_to_bf16(single) : f32_to_f16(single);
  if (type == Element::kF32)
    std::memcpy(at, &single, sizeof single);
  else
    std::memcpy(at, &half, sizeof half);
}

/// `size` bytes on a cache line, between two guards.
class Guarded {
 public:
  Guarded(size_t size, unsigned char fill) : size_(size), block_(size + 2 * kGuard) {
    std::memset(block_.data(), kCanary, block_.size());
    std::memset(data(), fill, size);
  }
  [[nodiscard]] std::byte* data() { return block_.data() + kGuard; }
  [[nodiscard]] size_t size() const { return size_; }
  /// Where a call finds `data()` + offset; its guards travel with it.
  [[nodiscard]] std::byte* in(Mirror& mirror, size_t offset = 0) {
    return mirror.at(data() + offset, block_.data(), block_.size());
  }
  [[nodiscard]] bool intact() const {
    const auto whole = [](const std::byte* at) {
      return std::all_of(at, at + kGuard, [](std::byte b) { return b == std::byte{kCanary}; });
    };
    return whole(block_.data()) && whole(block_.data() + kGuard + size_);
  }

 private:
  size_t size_;
  AlignedBuffer<std::byte> block_;
};

/// Where element (b, h, n, 0) of a tensor lies, in elements.
struct Place {
  int64_t offset = 0, batch = 0, head = 0, token = 0, total = 0;
  [[nodiscard]] int64_t at(int64_t b, int64_t h, int64_t n) const { return offset + b * batch + h * head + n * token; }
};

/// slot: 0, 1, 2 for q, k, v in the fused buffer; -1: a tensor of its own.
inline Place place(const Case& c, int64_t heads, int64_t tokens, int64_t slot) {
  const int64_t d = c.problem.dim;
  Place p;
  if (c.layout == Layout::kBhnd) p = {0, heads * tokens * d, tokens * d, d, 0};
  if (c.layout == Layout::kBnhd || (c.layout == Layout::kFused && slot < 0)) p = {0, tokens * heads * d, d, heads * d, 0};
  if (c.layout == Layout::kFused && slot >= 0) p = {slot * heads * d, tokens * 3 * heads * d, d, 3 * heads * d, 0};
  if (c.layout == Layout::kPadded) {  // odd gaps after rows, heads and batches
    p.token = d + 5;
    p.head = tokens * p.token + 3;
    p.batch = heads * p.head + 7;
  }
  p.total = p.at(c.batch - 1, heads - 1, tokens - 1) + d;
  return p;
}

}  // namespace sla2::check
