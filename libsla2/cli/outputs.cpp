// SPDX-License-Identifier: Apache-2.0
#include "outputs.h"

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <set>

#include "errors.h"

namespace sla2::cli {

std::unique_ptr<FrameSink> make_sink(const fs::path& target, int quality) {
  std::string suffix = target.extension().string();
  std::transform(suffix.begin(), suffix.end(), suffix.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  const bool pattern = target.filename().string().find('%') != std::string::npos;
  if (suffix == ".mp4" || suffix == ".webm") return make_video_sink(target, suffix.substr(1), quality);
  if (suffix == ".gif") return make_gif_sink(target);
  if (suffix.empty() || fs::is_directory(target) || (suffix == ".png" && pattern)) return make_png_sink(target);
  if (suffix == ".png") {
    fail(SLA2_E_ARGUMENT, "output {}: one PNG cannot hold a clip; use a pattern such as frame_%04d.png, a folder, or --sheet {}",
         target.string(), target.filename().string());
  }
  fail(SLA2_E_ARGUMENT, "output {}: suffix \"{}\" is not known; use .mp4, .webm, .gif, a folder, or frame_%04d.png",
       target.string(), suffix);
}

Outputs::Outputs(const OutputPlan& plan) {
  std::set<fs::path> seen;
  const auto distinct = [&seen](const std::string& path) {
    if (!seen.insert(fs::absolute(path).lexically_normal()).second) fail(SLA2_E_ARGUMENT, "output {} is given twice", path);
  };
  for (const std::string& path : plan.outputs) {
    distinct(path);
    sinks_.push_back(make_sink(path, plan.quality));
  }
  if (!plan.sheet.empty()) {
    distinct(plan.sheet);
    sinks_.push_back(make_sheet_sink(plan.sheet));
  }
  if (!plan.report.empty()) distinct(plan.report);
}

void Outputs::check_room(int64_t pixels) const {
  constexpr double kBitsPerByte = 8;
  for (const auto& sink : sinks_) {
    const auto needed = static_cast<uint64_t>(sink->least_bits_per_pixel() * static_cast<double>(pixels) / kBitsPerByte);
    std::error_code unknown;
    fs::path folder = fs::absolute(sink->target()).parent_path();
    while (folder.has_relative_path() && !fs::exists(folder, unknown)) folder = folder.parent_path();
    const fs::space_info disk = fs::space(folder, unknown);
    if (!unknown && disk.available < needed)
      fail(SLA2_E_FILE_WRITE, "cannot write {}: {} KiB at least are needed and {} KiB are free: {}", sink->target().string(),
           needed / 1024 + 1, disk.available / 1024, errno_text(ENOSPC));
  }
}

void Outputs::begin(const ClipInfo& clip) {
  for (auto& sink : sinks_) sink->begin(clip);
}

void Outputs::add(const Picture& picture) {
  for (auto& sink : sinks_) sink->add(picture);
}

void Outputs::finish() {
  for (auto& sink : sinks_) sink->finish();
}

std::vector<WrittenFile> Outputs::written() const {
  std::vector<WrittenFile> files;
  for (const auto& sink : sinks_) files.push_back({sink->target().string(), sink->encoder()});
  return files;
}

}  // namespace sla2::cli
