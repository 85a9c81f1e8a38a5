// SPDX-License-Identifier: Apache-2.0
// --report FILE: what happened, as JSON; also of a run that failed or was stopped. Written under another name and renamed.
#pragma once
#include <memory>

#include "files.h"
#include "handles.h"
#include "outputs.h"

namespace sla2::cli {

class ReportFile {
 public:
  /// "": none is asked for. Throws FILE_WRITE.
  explicit ReportFile(const std::string& path);
  /// The job's report as it ended.
  void take(std::string report) { report_ = std::move(report); }
  [[nodiscard]] const std::string& job_report() const noexcept { return report_; }
  /// With what was written. Throws FILE_WRITE.
  void write(const Outputs& outputs);
  /// What there is, with the status and the words; a job that never began has little. A report that cannot be written either is
  /// silence: the first trouble is the one to tell.
  void write_failure(sla2_status status, const std::string& words) noexcept;

 private:
  void commit(const std::string& text);

  std::unique_ptr<TempFile> file_;
  std::string report_;
};

/// Of a job, at any time.
std::string job_report(const sla2_job* job);

}  // namespace sla2::cli
