// SPDX-License-Identifier: Apache-2.0
// Where frames go: a video file, a GIF, a PNG sequence, a contact sheet. One frame at a time, in order; a sink that is
// destroyed before finish() leaves nothing under its final name.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "files.h"

namespace sla2::cli {

struct ClipInfo {
  int width = 0, height = 0, frames = 0;
  double fps = 0;
  std::string title;     ///< the prompt, UTF-8
  std::string metadata;  ///< one JSON object, ASCII (see clip_metadata.h)
};

/// One RGB picture, 8 bits, rows from the top.
struct Picture {
  const uint8_t* rgb = nullptr;
  int64_t row_bytes = 0;
};

class FrameSink {
 public:
  virtual ~FrameSink() = default;
  FrameSink() = default;
  FrameSink(const FrameSink&) = delete;
  FrameSink& operator=(const FrameSink&) = delete;
  virtual void begin(const ClipInfo& clip) = 0;
  virtual void add(const Picture& picture) = 0;
  virtual void finish() = 0;
  [[nodiscard]] virtual fs::path target() const = 0;
  /// Encoder that is used, such as "libx264"; valid after begin().
  [[nodiscard]] virtual std::string encoder() const = 0;
  /// What hardly any clip gets below: a disk with less room than that is refused before the work, not after it.
  [[nodiscard]] virtual double least_bits_per_pixel() const { return 0; }
};

/// The sink for one -o target: .mp4 .webm .gif, a folder, or a name%04d.png pattern (frame_folder.h). Reserves its temporary name
/// at once, so that an unwritable target is found before hours of sampling. Throws ARGUMENT for other suffixes.
std::unique_ptr<FrameSink> make_sink(const fs::path& target, int quality);
/// Grid of evenly spaced frames as one PNG.
std::unique_ptr<FrameSink> make_sheet_sink(const fs::path& target);

/// container: "mp4" or "webm".
std::unique_ptr<FrameSink> make_video_sink(const fs::path& target, const std::string& container, int quality);
std::unique_ptr<FrameSink> make_gif_sink(const fs::path& target);
std::unique_ptr<FrameSink> make_png_sink(const fs::path& target);

/// --quality: 0 (largest, best) … 63 (smallest), as constant-quality encoders count; a common default for all of them.
inline constexpr int kDefaultQuality = 20, kWorstQuality = 63;

}  // namespace sla2::cli
