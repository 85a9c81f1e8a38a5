// SPDX-License-Identifier: Apache-2.0
// 256 colours for one picture by median cut, and the picture in them with ordered dithering, which stays still between
// frames where error diffusion would crawl.
#pragma once
#include <array>
#include <cstdint>
#include <vector>

#include "frame_sink.h"

namespace sla2::cli {

inline constexpr int kPaletteSize = 256;

class Palette {
 public:
  /// Median cut over the picture's colours at 5 bits a channel.
  Palette(const Picture& picture, int width, int height);
  /// 0xAARRGGBB, opaque, as AV_PIX_FMT_PAL8 takes them; kPaletteSize entries.
  [[nodiscard]] const std::array<uint32_t, kPaletteSize>& colours() const noexcept { return colours_; }
  /// indices: height rows of row_bytes.
  void map(const Picture& picture, int width, int height, uint8_t* indices, int row_bytes);

 private:
  [[nodiscard]] uint8_t nearest(int cell);
  std::array<uint32_t, kPaletteSize> colours_{};
  int used_ = 0;
  std::vector<int16_t> nearest_;  ///< colour cell → palette index; -1: not looked up yet
};

}  // namespace sla2::cli
