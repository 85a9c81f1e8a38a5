// SPDX-License-Identifier: Apache-2.0
// Products of warpgroups: descriptors decoded, operands read from shared memory where the swizzle puts them.
#pragma once
#include <cstdint>

namespace sla2::emulator {

enum class GroupKind : uint8_t { kScoresBf16, kScoresInt8, kValues, kState, kValues8 };

/// sums: this lane's registers; a: its fragments, or null and `a_address` a descriptor.
void group_product(GroupKind kind, uint32_t* sums, const uint32_t* a, uint64_t a_address, uint64_t b_address, bool add);

/// A sum of e4m3 products as the unit keeps it (set_short_sums).
float short_sum(double sum);

}  // namespace sla2::emulator
