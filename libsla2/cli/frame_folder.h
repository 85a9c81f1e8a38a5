// SPDX-License-Identifier: Apache-2.0
// Where a sequence of pictures gathers, and how it gets its final name: all frames or none, wherever a file system can do that.
//  - the folder is new, or empty: the gathered folder is renamed to it;
//  - it holds nothing but the frames of an earlier clip: the two folders change places, then the old one goes;
//  - it holds other things too, is the current folder or the root of a disk: frames of an earlier clip go, then ours move in one
//  by one. Whoever stops
//    that finds the first frames alone there; the checkpoint is still there to go on from.
#pragma once
#include "files.h"

namespace sla2::cli {

/// "frame_%04d.png" cut into what stands before and behind the number.
struct FrameNames {
  std::string before, after = ".png";
  int digits = 4;
  /// Throws ARGUMENT for a pattern without exactly one %d or %04d.
  static FrameNames of_pattern(const std::string& pattern);
  [[nodiscard]] std::string name(int index) const;
  [[nodiscard]] bool is_frame(const std::string& name) const;
};

class FrameFolder {
 public:
  /// A folder, or folder/pattern. Makes the place where frames gather; throws FILE_WRITE where there can be none.
  explicit FrameFolder(const fs::path& target);
  ~FrameFolder();
  FrameFolder(const FrameFolder&) = delete;
  FrameFolder& operator=(const FrameFolder&) = delete;

  [[nodiscard]] fs::path gathering(int index) const { return stage_ / names_.name(index); }
  void publish(int count);  ///< throws FILE_WRITE
  [[nodiscard]] const fs::path& target() const noexcept { return target_; }

 private:
  enum class Holds { kNothing, kFrames, kOther };
  [[nodiscard]] int make_stage(const fs::path& stage);
  [[nodiscard]] Holds holds() const;
  void exchange() const;
  void move_in(int count) const;
  [[noreturn]] void fail_write(int error) const;

  fs::path target_, folder_, stage_;
  FrameNames names_;
};

}  // namespace sla2::cli
