// SPDX-License-Identifier: Apache-2.0
// The flags that say where settings come from: --preset, --from.
#pragma once
#include <CLI/CLI.hpp>

#include "settings.h"

namespace sla2::cli {

inline void add_source_flags(CLI::App* app, SettingsSource& source) {
  app->add_option("--preset", source.preset, "Settings by name (`sla2 presets list`) or a preset file")->group("Settings");
  app->add_option("--from", source.from, "Repeat a run: a clip or a report made by sla2; flags given here win")
      ->group("Settings");
}

}  // namespace sla2::cli
