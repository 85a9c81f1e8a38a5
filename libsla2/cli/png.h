// SPDX-License-Identifier: Apache-2.0
// One PNG picture through libavcodec, with a text chunk that carries the settings, and reading that chunk back.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "av.h"
#include "frame_sink.h"

namespace sla2::cli {

class PngEncoder {
 public:
  PngEncoder(int width, int height);
  /// The whole file. comment: ASCII, stored as tEXt "Comment"; empty: none.
  std::vector<uint8_t> encode(const Picture& picture, std::string_view comment);

 private:
  Av<AVCodecContext> context_;
  Av<AVFrame> frame_;
  Av<AVPacket> packet_;
};

/// The tEXt "Comment" of a PNG, "" if there is none or it is no PNG.
std::string png_comment(std::string_view file);

}  // namespace sla2::cli
