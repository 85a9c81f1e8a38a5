// SPDX-License-Identifier: Apache-2.0
// The table of attention's kernels (kernels/attention_ops.h) by name: which instruction sets have a version of each op.
#pragma once
#include <string>
#include <vector>

namespace sla2::check {

struct OpVersions {
  std::string name;
  std::vector<std::string> isas;  ///< those with a version of their own, the plain one first
  std::string alone;              ///< why one version is enough; empty: it is not
};
/// Every op, in the table's order.
[[nodiscard]] std::vector<OpVersions> op_versions();
/// A line for each op whose name `pattern` (a glob) matches; empty: none does.
[[nodiscard]] std::string op_table(const std::string& pattern);
/// What is wrong: an op with no second version cannot be held against anything, unless it says why.
[[nodiscard]] std::vector<std::string> lone_ops(const std::vector<OpVersions>& ops);

}  // namespace sla2::check
