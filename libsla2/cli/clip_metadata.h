// SPDX-License-Identifier: Apache-2.0
// The settings that travel inside a clip: one JSON object in the container's comment, and reading it back.
//   {"format": "sla2.clip", "version": 1, "library": "0.1.0", "settings": {"prompt": …}, "report": {…}}
#pragma once
#include <sla2/params.h>

#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "files.h"

namespace sla2::cli {

/// ASCII text (\u escapes). Settings that change no pixel (threads, paths of checkpoints …) are left out.
/// report: the job's report so far, from which resolved settings are preferred; may be empty. What a resumed run tells otherwise
/// than an uninterrupted one is left out.
std::string make_metadata(const sla2_params* params, const std::string& report);

/// The object in the comment of a .mp4 .webm .gif .png file, nothing if the file is no such picture or has no such comment.
/// Throws FILE_NOT_FOUND, FILE_READ.
std::optional<nlohmann::json> read_metadata(const fs::path& path);

/// What FFmpeg says about a picture or video file in one line, "" if it is none.
std::string media_summary(const fs::path& path);

/// Those entries of `settings` that the parameter table knows.
nlohmann::json known_settings(const nlohmann::json& settings);

}  // namespace sla2::cli
