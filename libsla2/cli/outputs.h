// SPDX-License-Identifier: Apache-2.0
// Everything a run writes: one sink per target, all fed from the same frames.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "frame_sink.h"

namespace sla2::cli {

/// What the user asked for; kept beside a checkpoint so that `resume` needs no repetition (see resume_note.h).
struct OutputPlan {
  std::vector<std::string> outputs;
  std::string sheet, report;
  int quality = kDefaultQuality;
};

struct WrittenFile {
  std::string path, encoder;
};

class Outputs {
 public:
  explicit Outputs(const OutputPlan& plan);  ///< reserves every target
  /// Throws FILE_WRITE where a disk has less room than a clip of so many pixels is sure to need.
  void check_room(int64_t pixels) const;
  void begin(const ClipInfo& clip);
  void add(const Picture& picture);
  void finish();
  [[nodiscard]] std::vector<WrittenFile> written() const;

 private:
  std::vector<std::unique_ptr<FrameSink>> sinks_;
};

}  // namespace sla2::cli
