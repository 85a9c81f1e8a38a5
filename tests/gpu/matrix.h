// SPDX-License-Identifier: Apache-2.0
// What runs on which GPU, in Markdown, asked of the one function that decides when a plan is made.
#pragma once
#include <string>

namespace sla2::gpu_check {

[[nodiscard]] std::string matrix();

}  // namespace sla2::gpu_check
