// SPDX-License-Identifier: Apache-2.0
#include "frame_folder.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <vector>

#include "errors.h"

namespace sla2::cli {

namespace {

constexpr int kLargestDigits = 9;

bool is_digit(char c) { return c >= '0' && c <= '9'; }

/// Whether both are on one disk, so that a rename can go from one to the other.
bool on_one_disk(const fs::path& a, const fs::path& b) {
  struct stat first {
  }, second{};
  return ::stat(a.c_str(), &first) == 0 && ::stat(b.c_str(), &second) == 0 && first.st_dev == second.st_dev;
}

}  // namespace

FrameNames FrameNames::of_pattern(const std::string& pattern) {
  const size_t percent = pattern.find('%'), letter = pattern.find('d', percent);
  const std::string width = letter == std::string::npos ? "" : pattern.substr(percent + 1, letter - percent - 1);
  FrameNames names;
  names.digits = 1;
  const char* begin = width.data();
  const auto [end, error] = std::from_chars(begin, begin + width.size(), names.digits);
  const bool plain = letter != std::string::npos && width.empty();
  const bool numbered =
      error == std::errc() && end == begin + width.size() && names.digits >= 1 && names.digits <= kLargestDigits;
  if ((!plain && !numbered) || pattern.find('%', percent + 1) != std::string::npos) {
    fail(SLA2_E_ARGUMENT, "output pattern \"{}\": expected one %d or %04d, as in frame_%04d.png", pattern);
  }
  names.before = pattern.substr(0, percent);
  names.after = pattern.substr(letter + 1);
  return names;
}

std::string FrameNames::name(int index) const { return fmt::format("{}{:0{}}{}", before, index, digits, after); }

bool FrameNames::is_frame(const std::string& name) const {
  if (name.size() < before.size() + after.size() || !name.starts_with(before) || !name.ends_with(after)) return false;
  const std::string number = name.substr(before.size(), name.size() - before.size() - after.size());
  const auto wanted = static_cast<size_t>(digits);
  return std::all_of(number.begin(), number.end(), is_digit) &&
         (number.size() == wanted || (number.size() > wanted && number.size() <= kLargestDigits && number[0] != '0'));
}

FrameFolder::FrameFolder(const fs::path& target) : target_(target) {
  fs::path named = target;
  if (named.filename().empty()) named = named.parent_path();  // "frames/" is "frames"
  const bool by_pattern = named.filename().string().find('%') != std::string::npos;
  if (by_pattern) names_ = FrameNames::of_pattern(named.filename().string());
  folder_ = by_pattern ? named.parent_path() : named;
  if (folder_.empty()) folder_ = ".";
  if (fs::exists(folder_) && !fs::is_directory(folder_))
    fail(SLA2_E_FILE_WRITE, "cannot write {}: {} is a file, a folder is needed", target.string(), folder_.string());
  std::error_code error, ignored;
  folder_ = fs::weakly_canonical(fs::absolute(folder_), error);  // behind symbolic links: a rename must not replace those
  if (!error && by_pattern) fs::create_directories(folder_.parent_path(), error);
  if (error) fail_write(error.value());
  const bool stays = fs::exists(folder_) && (holds() == Holds::kOther || folder_ == fs::current_path(ignored) ||
                                             !on_one_disk(folder_, folder_.parent_path()));
  int failed = stays ? EBUSY : make_stage(temporary_name(folder_));
  if (failed != 0 && fs::exists(folder_)) failed = make_stage(temporary_name(folder_ / "frames"));
  if (failed != 0) fail_write(failed);
}

/// @return 0 or an errno
int FrameFolder::make_stage(const fs::path& stage) {
  stage_ = stage;
  std::error_code error;
  fs::remove_all(stage_, error);  // what a killed run left
  if (!error) fs::create_directory(stage_, error);
  return error.value();
}

FrameFolder::~FrameFolder() {
  std::error_code ignored;
  fs::remove_all(stage_, ignored);
}

void FrameFolder::fail_write(int error) const {
  fail(SLA2_E_FILE_WRITE, "cannot write {}: {}", target_.string(), errno_text(error));
}

FrameFolder::Holds FrameFolder::holds() const {
  std::error_code error;
  if (!fs::exists(folder_, error)) return Holds::kNothing;
  Holds found = Holds::kNothing;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder_, error)) {
    if (!entry.is_regular_file() || entry.is_symlink() || !names_.is_frame(entry.path().filename().string()))
      return Holds::kOther;
    found = Holds::kFrames;
  }
  if (error) fail_write(error.value());
  return found;
}

/// The gathered folder takes the name, and the old one ours, in one step; where the file system has no such step, in two.
void FrameFolder::exchange() const {
  if (::renameat2(AT_FDCWD, stage_.c_str(), AT_FDCWD, folder_.c_str(), RENAME_EXCHANGE) == 0) return;
  const fs::path old = temporary_name(stage_);
  std::error_code error;
  fs::remove_all(old, error);
  fs::rename(folder_, old, error);
  if (error) fail_write(error.value());
  fs::rename(stage_, folder_, error);
  if (error) {
    std::error_code ignored;
    fs::rename(old, folder_, ignored);
    fail_write(error.value());
  }
  fs::remove_all(old, error);
}

void FrameFolder::move_in(int count) const {
  std::error_code error;
  std::vector<fs::path> earlier;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder_, error))
    if (entry.is_regular_file() && names_.is_frame(entry.path().filename().string())) earlier.push_back(entry.path());
  for (const fs::path& frame : earlier) fs::remove(frame, error);
  for (int index = 0; index < count && !error; ++index) fs::rename(gathering(index), folder_ / names_.name(index), error);
  if (error) fail_write(error.value());
}

void FrameFolder::publish(int count) {
  sync_folder(stage_);
  switch (holds()) {       // the gathering folder, where it lies inside, is an other thing
    case Holds::kNothing:  // rename() takes the place of an empty folder
      if (::rename(stage_.c_str(), folder_.c_str()) != 0) fail_write(errno);
      break;
    case Holds::kFrames: exchange(); break;
    case Holds::kOther: move_in(count); break;
  }
  sync_folder(folder_);
  sync_folder(folder_.parent_path());
}

}  // namespace sla2::cli
