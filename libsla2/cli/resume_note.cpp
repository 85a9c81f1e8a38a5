// SPDX-License-Identifier: Apache-2.0
#include "resume_note.h"

#include <nlohmann/json.hpp>

#include "errors.h"

namespace sla2::cli {

namespace {

using nlohmann::json;

constexpr const char* kNoteFormat = "sla2.outputs";
constexpr uint64_t kLargestNote = 1u << 20;

/// JSON holds UTF-8 alone, so a path that is not keeps its bytes through Latin-1 code points.
json path_json(const std::string& path) {
  if (path.empty()) return "";
  json bytes = json::array();
  const std::string absolute = fs::absolute(path).lexically_normal().string();
  json text = absolute;
  if (json::parse(text.dump(-1, ' ', true, json::error_handler_t::replace)) == text) return text;
  for (const char c : absolute) bytes.push_back(static_cast<unsigned char>(c));
  return bytes;
}

std::string path_from(const json& value) {
  if (value.is_string()) return value.get<std::string>();
  std::string path;
  for (const json& byte : value) path += static_cast<char>(byte.get<unsigned char>());
  return path;
}

}  // namespace

fs::path note_path(const std::string& checkpoint) { return checkpoint + ".json"; }

void write_note(const std::string& checkpoint, const ResumeNote& note) {
  json object{{"format", kNoteFormat},
              {"version", 1},
              {"outputs", json::array()},
              {"sheet", path_json(note.plan.sheet)},
              {"report", path_json(note.plan.report)},
              {"quality", note.plan.quality},
              {"keep_checkpoint", note.keep_checkpoint}};
  for (const std::string& output : note.plan.outputs) object["outputs"].push_back(path_json(output));
  write_file(note_path(checkpoint), object.dump(2) + "\n");
}

std::string note_text(const std::string& checkpoint) noexcept {
  try {
    return checkpoint.empty() || !fs::exists(note_path(checkpoint)) ? std::string()
                                                                    : read_text(note_path(checkpoint), kLargestNote);
  } catch (const std::exception&) {
    return {};
  }
}

void put_note_back(const std::string& checkpoint, const std::string& text) noexcept {
  try {
    if (checkpoint.empty()) return;
    if (text.empty()) {
      fs::remove(note_path(checkpoint));
    } else {
      write_file(note_path(checkpoint), text);
    }
  } catch (const std::exception&) {  // what went wrong before is on its way already
  }
}

std::optional<ResumeNote> read_note(const std::string& checkpoint) {
  const fs::path path = note_path(checkpoint);
  if (!fs::exists(path)) return std::nullopt;
  try {
    const json object = json::parse(read_text(path, kLargestNote));
    if (object.at("format") != kNoteFormat) fail(SLA2_E_FILE_FORMAT, "{} is not a note of sla2", path.string());
    ResumeNote note;
    for (const json& output : object.at("outputs")) note.plan.outputs.push_back(path_from(output));
    note.plan.sheet = path_from(object.at("sheet"));
    note.plan.report = path_from(object.at("report"));
    note.plan.quality = object.at("quality").get<int>();
    note.keep_checkpoint = object.at("keep_checkpoint").get<bool>();
    return note;
  } catch (const json::exception& error) {
    fail(SLA2_E_FILE_FORMAT, "{} is damaged ({}); delete it and name the output with -o", path.string(), error.what());
  }
}

}  // namespace sla2::cli
