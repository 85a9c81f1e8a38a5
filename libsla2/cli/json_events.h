// SPDX-License-Identifier: Apache-2.0
// Events for programs: one JSON object per line. The same shapes serve `--json` and the worker (docs/serve.md).
#pragma once
#include <sla2/generate.h>

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "outputs.h"

namespace sla2::cli {

const char* phase_name(int32_t phase);
nlohmann::json progress_event(const sla2_progress& progress);
/// {"type": "preview", step, width, height, frames, rgb: base64 of the middle frame}
nlohmann::json preview_event(const sla2_frames& frames, int32_t step);
nlohmann::json done_event(const std::vector<WrittenFile>& written, const std::string& report_path, double seconds);
/// resume: command that goes on, "" if there is nothing to go on from.
nlohmann::json error_event(sla2_status status, const std::string& text, const std::string& resume);
nlohmann::json log_event(int32_t level, const std::string& text);

/// One line, ASCII, no newline inside; invalid UTF-8 is replaced.
std::string event_line(const nlohmann::json& event);
std::string base64(const uint8_t* bytes, size_t count);

}  // namespace sla2::cli
