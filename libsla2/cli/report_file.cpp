// SPDX-License-Identifier: Apache-2.0
#include "report_file.h"

#include <nlohmann/json.hpp>

#include "files.h"

namespace sla2::cli {

using nlohmann::ordered_json;

namespace {

std::string dumped(const ordered_json& object) {
  return object.dump(2, ' ', false, ordered_json::error_handler_t::replace) + "\n";
}

}  // namespace

ReportFile::ReportFile(const std::string& path) {
  if (!path.empty()) file_ = std::make_unique<TempFile>(path);
}

void ReportFile::write(const Outputs& outputs) {
  if (!file_) return;
  ordered_json object = ordered_json::parse(report_, nullptr, false);
  if (!object.is_object()) return commit(report_);
  for (const WrittenFile& file : outputs.written()) object["outputs"].push_back({{"path", file.path}, {"encoder", file.encoder}});
  commit(dumped(object));
}

void ReportFile::write_failure(sla2_status status, const std::string& words) noexcept {
  try {
    if (!file_) return;
    ordered_json object = ordered_json::parse(report_, nullptr, false);
    if (!object.is_object()) object = {{"format", "sla2.report"}, {"version", 1}, {"library", sla2_version()}};
    object["finished"] = true;
    object["status"] = status;
    object["error"] = words;
    object["outputs"] = ordered_json::array();  // nothing stands under a final name
    commit(dumped(object));
  } catch (...) {
    file_.reset();
  }
}

void ReportFile::commit(const std::string& text) {
  const std::unique_ptr<TempFile> file = std::move(file_);  // once, whatever comes of it
  file->write({reinterpret_cast<const uint8_t*>(text.data()), text.size()});
  file->commit();
}

std::string job_report(const sla2_job* job) {
  return text_of([&](char* buffer, uint64_t capacity) { return sla2_job_report(job, buffer, capacity); });
}

}  // namespace sla2::cli
