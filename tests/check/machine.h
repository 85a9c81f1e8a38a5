// SPDX-License-Identifier: Apache-2.0
// What a timing means nothing without.
#pragma once
#include <string>

namespace sla2::check {

/// Of the sources this was built from, "-dirty" where they differ from it; "unknown" outside a checkout.
[[nodiscard]] std::string commit();
[[nodiscard]] std::string compiler();
/// Measured: cycles a second of a chain of additions, one a cycle. What the system says of clocks is often not what runs.
[[nodiscard]] double clock_ghz();

}  // namespace sla2::check
