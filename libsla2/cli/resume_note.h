// SPDX-License-Identifier: Apache-2.0
// CHECKPOINT.json beside a checkpoint: what the run was to write, so that `sla2 resume CHECKPOINT` needs nothing else.
#pragma once
#include <optional>
#include <string>

#include "outputs.h"

namespace sla2::cli {

struct ResumeNote {
  OutputPlan plan;
  bool keep_checkpoint = false;
};

fs::path note_path(const std::string& checkpoint);
/// Paths are stored absolute. Throws FILE_WRITE.
void write_note(const std::string& checkpoint, const ResumeNote& note);
/// As it lies there, "" if there is none; and back again after a run that left no checkpoint of its own. Never throw.
std::string note_text(const std::string& checkpoint) noexcept;
void put_note_back(const std::string& checkpoint, const std::string& text) noexcept;
/// Nothing if there is none. Throws FILE_FORMAT for a damaged one.
std::optional<ResumeNote> read_note(const std::string& checkpoint);

}  // namespace sla2::cli
