// SPDX-License-Identifier: Apache-2.0
// A sink that keeps the clip in memory: 3 bytes a pixel and frame.
#pragma once
#include <algorithm>
#include <vector>

#include "frame_sink.h"

namespace sla2::cli {

class ClipMemory final : public FrameSink {
 public:
  void begin(const ClipInfo& clip) override {
    clip_ = clip;
    rgb_.clear();
    rgb_.reserve(static_cast<size_t>(clip.frames) * frame_bytes());
  }
  void add(const Picture& picture) override {
    for (int row = 0; row < clip_.height; ++row)
      rgb_.insert(rgb_.end(), picture.rgb + row * picture.row_bytes, picture.rgb + row * picture.row_bytes + row_bytes());
  }
  void finish() override {}
  [[nodiscard]] fs::path target() const override { return {}; }
  [[nodiscard]] std::string encoder() const override { return "memory"; }

  [[nodiscard]] const ClipInfo& clip() const noexcept { return clip_; }
  [[nodiscard]] int64_t row_bytes() const noexcept { return int64_t{clip_.width} * 3; }
  [[nodiscard]] size_t frame_bytes() const noexcept { return static_cast<size_t>(row_bytes() * clip_.height); }
  /// [frames, height, width, 3]
  [[nodiscard]] const std::vector<uint8_t>& rgb() const noexcept { return rgb_; }
  [[nodiscard]] const uint8_t* row(int frame, int row) const { return rgb_.data() + frame * frame_bytes() + row * row_bytes(); }

 private:
  ClipInfo clip_;
  std::vector<uint8_t> rgb_;
};

}  // namespace sla2::cli
