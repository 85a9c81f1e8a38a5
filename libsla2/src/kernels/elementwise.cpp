// SPDX-License-Identifier: Apache-2.0
#include "kernels/elementwise.h"

#include <atomic>
#include <vector>

#include "core/core.h"

namespace sla2::kernels {

namespace {
constexpr int64_t kGrain = 1 << 16;  // 256 KiB of fp32: larger than the cost of handing out a range
}

const ElementwiseTable& elementwise() {
  static const ElementwiseTable& table = active_isa() >= Isa::kAvx2 ? elementwise_avx2() : elementwise_ref();
  return table;
}

void silu(float* values, int64_t count) {
  static const std::vector<float> zero(static_cast<size_t>(kGrain), 0.0F);
  parallel_ranges(count, kGrain, [&](int64_t begin, int64_t end, int) {
    elementwise().bias_silu(values + begin, zero.data(), values + begin, static_cast<size_t>(end - begin));
  });
}

bool all_finite(const float* values, int64_t count) {
  std::atomic<bool> finite{true};
  parallel_ranges(count, kGrain, [&](int64_t begin, int64_t end, int) {
    if (!elementwise().all_finite(values + begin, static_cast<size_t>(end - begin)))
      finite.store(false, std::memory_order_relaxed);
  });
  return finite.load();
}

}  // namespace sla2::kernels
