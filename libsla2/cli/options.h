// SPDX-License-Identifier: Apache-2.0
// Command line flags made from the library's parameter table: cfg_scale → --cfg-scale, with its range and default in the help.
#pragma once
#include <CLI/CLI.hpp>
#include <deque>
#include <string>
#include <utility>
#include <vector>

namespace sla2::cli {

class ParamFlags {
 public:
  /// Add one flag per row of the table. `only_group`: "" for all groups.
  void add_to(CLI::App* app, const std::string& only_group = "");
  /// The flags that were given, in table order.
  [[nodiscard]] std::vector<std::pair<std::string, std::string>> given() const;

 private:
  struct Flag {
    std::string name, value;
    CLI::Option* option;
  };
  std::deque<Flag> flags_;  // addresses stay
};

/// How much a command says, and in which form.
struct Verbosity {
  bool json = false, quiet = false, verbose = false;
  void add_to(CLI::App* app);
};

/// Message for a parse error, with the nearest flag or command where one was mistyped.
std::string usage_message(const CLI::App& app, const CLI::ParseError& error);

}  // namespace sla2::cli
