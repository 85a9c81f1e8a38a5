// SPDX-License-Identifier: Apache-2.0
// What a run says while it works: a bar with ETA on a terminal, plain lines elsewhere, JSON events, or nothing.
#pragma once
#include <sla2/generate.h>

#include <mutex>
#include <nlohmann/json.hpp>
#include <string>

#include "options.h"
#include "run_job.h"

namespace sla2::cli {

class Reporter final : public JobObserver {
 public:
  explicit Reporter(const Verbosity& verbosity);  ///< also takes the library's log
  ~Reporter() override;

  void on_progress(const sla2_progress& progress) override;
  void on_preview(const sla2_frames& frames, int32_t step) override;
  void on_note(const std::string& text) override;
  void done(const JobResult& result);
  /// The text on stderr, and an error event.
  void error(sla2_status status, const std::string& text, const std::string& resume);

 private:
  static void on_log(void* user, int32_t level, const char* text);
  void line(const std::string& text);  ///< on stderr, above the bar
  void event(const nlohmann::json& event);
  void draw(const sla2_progress& progress);
  void clear_bar();

  Verbosity verbosity_;
  bool terminal_;
  std::mutex mutex_;  // progress comes from the job's thread, log lines from any
  bool bar_shown_ = false;
  int32_t last_phase_ = 0;
  double last_line_seconds_ = 0;
};

/// "0:42", "1:02:03".
std::string clock_text(double seconds);
std::string bytes_text(uint64_t bytes);

}  // namespace sla2::cli
