// SPDX-License-Identifier: Apache-2.0
// "Did you mean": the known name nearest to what was typed. Private to the room.
#pragma once
#include <span>
#include <string>
#include <string_view>

namespace sla2::sampler {

/// The name with the smallest edit distance to `typed`, ignoring case.
std::string_view nearest_name(std::string_view typed, std::span<const std::string_view> names);
/// "a, b, c"
std::string join_names(std::span<const std::string_view> names);

}  // namespace sla2::sampler
