// SPDX-License-Identifier: Apache-2.0
#include "progress.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "json_events.h"

namespace sla2::cli {

namespace {

constexpr double kSecondsBetweenLines = 5;  // without a terminal
constexpr int kWidestBar = 40, kNarrowestBar = 10, kTextWidth = 44;

int terminal_width() {
  winsize size{};
  constexpr int kUsualWidth = 80;
  return ::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : kUsualWidth;
}

std::string what_text(const sla2_progress& progress) {
  std::string text = phase_name(progress.phase);
  if (progress.steps > 0) text += fmt::format(" {}/{}", progress.step, progress.steps);
  return text;
}

}  // namespace

std::string clock_text(double seconds) {
  const auto whole = static_cast<int64_t>(std::llround(std::max(0.0, seconds)));
  if (whole >= 3600) return fmt::format("{}:{:02}:{:02}", whole / 3600, whole / 60 % 60, whole % 60);
  return fmt::format("{}:{:02}", whole / 60, whole % 60);
}

std::string bytes_text(uint64_t bytes) {
  if (bytes >= uint64_t{1} << 30) return fmt::format("{:.1f} GiB", double(bytes) / double(1 << 30));
  if (bytes >= uint64_t{1} << 20) return fmt::format("{:.1f} MiB", double(bytes) / double(1 << 20));
  return fmt::format("{:.1f} KiB", double(bytes) / 1024);
}

Reporter::Reporter(const Verbosity& verbosity) : verbosity_(verbosity), terminal_(::isatty(STDERR_FILENO) == 1) {
  sla2_log_set(on_log, this);
}

Reporter::~Reporter() {
  sla2_log_set(nullptr, nullptr);
  const std::lock_guard lock(mutex_);
  clear_bar();
}

void Reporter::on_log(void* user, int32_t level, const char* text) {
  auto& self = *static_cast<Reporter*>(user);
  const std::lock_guard lock(self.mutex_);
  if (level > SLA2_LOG_WARNING && !self.verbosity_.verbose) return;
  if (self.verbosity_.json) return self.event(log_event(level, text));
  if (!self.verbosity_.quiet || level == SLA2_LOG_ERROR) self.line(fmt::format("sla2: {}", text));
}

void Reporter::on_progress(const sla2_progress& progress) {
  const std::lock_guard lock(mutex_);
  if (verbosity_.json) return event(progress_event(progress));
  if (verbosity_.quiet) return;
  if (progress.message != nullptr && progress.message[0] != '\0') line(fmt::format("sla2: {}", progress.message));
  if (terminal_) return draw(progress);
  const bool due = progress.seconds_elapsed - last_line_seconds_ >= kSecondsBetweenLines;
  if (progress.phase == last_phase_ && !due) return;
  last_phase_ = progress.phase;
  last_line_seconds_ = progress.seconds_elapsed;
  line(fmt::format("sla2: {:3.0f} % {}, {} elapsed{}", progress.fraction * 100, what_text(progress),
                   clock_text(progress.seconds_elapsed),
                   progress.seconds_left >= 0 ? ", " + clock_text(progress.seconds_left) + " left" : ""));
}

void Reporter::on_preview(const sla2_frames&, int32_t) {}  // a terminal shows no pictures; the worker sends them

void Reporter::on_note(const std::string& text) {
  const std::lock_guard lock(mutex_);
  if (verbosity_.json) return event(log_event(SLA2_LOG_INFO, text));
  if (!verbosity_.quiet) line("sla2: " + text);
}

void Reporter::done(const JobResult& result) {
  const std::lock_guard lock(mutex_);
  if (verbosity_.json) return event(done_event(result.written, result.report_path, result.seconds));
  if (verbosity_.quiet) return;
  for (const WrittenFile& file : result.written) {
    std::error_code error;
    const bool regular = fs::is_regular_file(file.path, error);
    line(fmt::format("sla2: wrote {} ({}{})", file.path, file.encoder,
                     regular ? ", " + bytes_text(fs::file_size(file.path, error)) : ""));
  }
  if (!result.report_path.empty()) line("sla2: wrote " + result.report_path);
  line(fmt::format("sla2: {} frames in {:.1f} s", result.frames, result.seconds));
}

void Reporter::error(sla2_status status, const std::string& text, const std::string& resume) {
  const std::lock_guard lock(mutex_);
  if (verbosity_.json) event(error_event(status, text, resume));
  line("sla2: " + text);
  if (!resume.empty()) line("sla2: go on with: " + resume);
}

void Reporter::line(const std::string& text) {
  clear_bar();
  std::fputs((text + "\n").c_str(), stderr);
}

void Reporter::event(const nlohmann::json& event) {
  std::puts(event_line(event).c_str());
  std::fflush(stdout);
}

void Reporter::draw(const sla2_progress& progress) {
  const int width = std::clamp(terminal_width() - kTextWidth, kNarrowestBar, kWidestBar);
  const int full = std::clamp(static_cast<int>(progress.fraction * width), 0, width);
  const std::string left = progress.seconds_left >= 0 ? clock_text(progress.seconds_left) + " left" : "";
  const std::string bar = std::string(static_cast<size_t>(full), '#') + std::string(static_cast<size_t>(width - full), '.');
  std::fputs(fmt::format("\r\x1b[K[{}] {:3.0f} % {} {}", bar, progress.fraction * 100, what_text(progress), left).c_str(),
             stderr);
  std::fflush(stderr);
  bar_shown_ = true;
}

void Reporter::clear_bar() {
  if (!bar_shown_) return;
  std::fputs("\r\x1b[K", stderr);
  bar_shown_ = false;
}

}  // namespace sla2::cli
