// SPDX-License-Identifier: Apache-2.0
#include "json_events.h"

#include "errors.h"

extern "C" {
#include <libavutil/base64.h>
}

namespace sla2::cli {

using nlohmann::json;

const char* phase_name(int32_t phase) {
  switch (phase) {
    case SLA2_PHASE_LOAD: return "load";
    case SLA2_PHASE_TEXT: return "text";
    case SLA2_PHASE_SAMPLE: return "sample";
    case SLA2_PHASE_DECODE: return "decode";
    case SLA2_PHASE_DONE: return "done";
    default: return "unknown";
  }
}

json progress_event(const sla2_progress& progress) {
  json event{{"type", "progress"},
             {"phase", phase_name(progress.phase)},
             {"step", progress.step},
             {"steps", progress.steps},
             {"fraction", progress.fraction},
             {"seconds_elapsed", progress.seconds_elapsed},
             {"seconds_left", nullptr},
             {"message", progress.message != nullptr ? progress.message : ""}};
  if (progress.seconds_left >= 0) event["seconds_left"] = progress.seconds_left;
  return event;
}

json preview_event(const sla2_frames& frames, int32_t step) {
  std::string pixels;  // [height, width, 3]
  const uint8_t* middle = frames.rgb + int64_t{frames.count / 2} * frames.height * frames.row_bytes;
  for (int row = 0; row < frames.height; ++row) {
    pixels.append(reinterpret_cast<const char*>(middle + row * frames.row_bytes), static_cast<size_t>(frames.width) * 3);
  }
  return {{"type", "preview"},      {"step", step},
          {"width", frames.width},  {"height", frames.height},
          {"frames", frames.count}, {"rgb", base64(reinterpret_cast<const uint8_t*>(pixels.data()), pixels.size())}};
}

json done_event(const std::vector<WrittenFile>& written, const std::string& report_path, double seconds) {
  json outputs = json::array();
  for (const WrittenFile& file : written) outputs.push_back({{"path", file.path}, {"encoder", file.encoder}});
  return {{"type", "done"}, {"outputs", outputs}, {"report", report_path}, {"seconds", seconds}};
}

json error_event(sla2_status status, const std::string& text, const std::string& resume) {
  return {{"type", "error"},
          {"status", sla2_status_name(status)},
          {"exit_code", static_cast<int>(exit_code_of(status))},
          {"message", text},
          {"resume", resume}};
}

json log_event(int32_t level, const std::string& text) { return {{"type", "log"}, {"level", level}, {"message", text}}; }

std::string event_line(const json& event) { return event.dump(-1, ' ', true, json::error_handler_t::replace); }

std::string base64(const uint8_t* bytes, size_t count) {
  std::string text(AV_BASE64_SIZE(count), '\0');
  av_base64_encode(text.data(), static_cast<int>(text.size()), bytes, static_cast<int>(count));
  text.resize(text.size() - 1);  // the terminator
  return text;
}

}  // namespace sla2::cli
