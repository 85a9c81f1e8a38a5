// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <CLI/CLI.hpp>

namespace sla2::probe {
/// `probe_dit bench`: seconds per block and peak memory on synthetic weights, as JSON.
void add_bench(CLI::App& app);
void add_load(CLI::App& app);     ///< bench_load.cpp
void add_linears(CLI::App& app);  ///< bench_linears.cpp
}  // namespace sla2::probe
