// SPDX-License-Identifier: Apache-2.0
// Presets and metadata objects: any bytes are refused with ARGUMENT, line and key, or give values that read back as they
// were written. A refused text changes nothing.
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "config/params/params.h"

namespace {

using sla2::config::ParamSet;

constexpr std::string_view kWhere = "fuzzed preset";

void require(bool condition) {
  if (!condition) std::abort();
}

/// @return whether the text was taken.
bool merge(ParamSet* values, std::string_view text) {
  try {
    values->merge_json(text, kWhere);
    return true;
  } catch (const sla2::Error& error) {
    require(error.status() == SLA2_E_ARGUMENT);
    require(std::string_view(error.what()).starts_with(kWhere));
    return false;
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  ParamSet values;
  values.set_text("steps", "7");
  const auto before = values.values();
  if (!merge(&values, text)) {
    require(values.values() == before);
    return 0;
  }
  ParamSet again;
  require(merge(&again, values.to_json()));
  require(again.values() == values.values());
  for (const auto& [name, value] : values.values()) {  // and as single settings, as the command line gives them
    ParamSet single;
    single.set_text(name, value);
    require(single.text(name) == value);
  }
  return 0;
}
