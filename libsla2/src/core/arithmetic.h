// SPDX-License-Identifier: Apache-2.0
// Sums that every room does.
#pragma once
#include <cstdint>

namespace sla2 {

/// How many parts of b cover a; a >= 0, b > 0.
[[nodiscard]] constexpr int64_t ceil_div(int64_t a, int64_t b) noexcept { return (a + b - 1) / b; }

}  // namespace sla2
