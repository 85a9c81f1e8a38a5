// SPDX-License-Identifier: Apache-2.0
// One function per command: it adds its subcommand and flags; when chosen, the action it leaves in `action` is run.
#pragma once
#include <CLI/CLI.hpp>
#include <functional>
#include <memory>

#include "errors.h"

namespace sla2::cli {

using Action = std::function<ExitCode()>;

void add_generate(CLI::App& app, Action& action);
void add_resume(CLI::App& app, Action& action);
void add_compare(CLI::App& app, Action& action);
void add_info(CLI::App& app, Action& action);
void add_bench(CLI::App& app, Action& action);
void add_presets(CLI::App& app, Action& action);
void add_doctor(CLI::App& app, Action& action);
void add_serve(CLI::App& app, Action& action);

}  // namespace sla2::cli
