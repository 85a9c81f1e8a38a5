// SPDX-License-Identifier: Apache-2.0
// Spatial tiles for frames whose caches do not fit in memory. Every tile runs the whole clip by itself, tiles are blended with
// linear ramps over their overlap. An approximation: the middle attention sees one tile only, and convolutions see zeros at
// its borders.
#pragma once
#include <cstdint>
#include <functional>
#include <vector>

#include "vae/vae.h"

namespace sla2::vae {

/// A rectangle of the latent.
struct TileArea {
  int64_t y = 0, x = 0, height = 0, width = 0;
};

class TileGrid {
 public:
  /// `tile` and `overlap` in pixels; tile 0 means one tile. Throws ARGUMENT if they are no multiples of `factor` or overlap too
  /// much.
  TileGrid(int64_t latent_height, int64_t latent_width, int64_t factor, int64_t tile, int64_t overlap);
  [[nodiscard]] int64_t count() const noexcept { return static_cast<int64_t>(rows_.size() * columns_.size()); }
  [[nodiscard]] TileArea area(int64_t index) const noexcept;
  /// Share of tile `index` in the pixel (y, x) of that tile: products of ramps; over all tiles they sum to one.
  [[nodiscard]] std::vector<float> row_ramp(int64_t index) const;
  [[nodiscard]] std::vector<float> column_ramp(int64_t index) const;
  [[nodiscard]] int64_t height() const noexcept { return height_ * factor_; }  ///< pixels
  [[nodiscard]] int64_t width() const noexcept { return width_ * factor_; }
  [[nodiscard]] int64_t factor() const noexcept { return factor_; }

 private:
  struct Span {
    int64_t begin, length;
  };
  static std::vector<Span> cut(int64_t size, int64_t tile, int64_t overlap);
  static std::vector<float> ramp(const std::vector<Span>& spans, size_t index, int64_t factor);
  int64_t height_, width_, factor_;
  std::vector<Span> rows_, columns_;
};

/// Adds up weighted tiles of the whole clip.
class TileBlender {
 public:
  TileBlender(const TileGrid& grid, int64_t frames);
  void add(int64_t tile, const FrameChunk& chunk);
  /// 1, then `chunk` frames at a time.
  void emit(int64_t chunk, const std::function<void(const FrameChunk&)>& on_frames) const;

 private:
  const TileGrid& grid_;
  int64_t frames_;
  std::vector<float> clip_;  ///< [F,3,H,W]
};

}  // namespace sla2::vae
