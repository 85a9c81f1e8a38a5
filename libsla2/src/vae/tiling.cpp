// SPDX-License-Identifier: Apache-2.0
#include "vae/tiling.h"

#include <algorithm>

#include "vae/blocks.h"

namespace sla2::vae {

TileGrid::TileGrid(int64_t latent_height, int64_t latent_width, int64_t factor, int64_t tile, int64_t overlap)
    : height_(latent_height), width_(latent_width), factor_(factor) {
  if (tile == 0) {
    rows_ = {{0, latent_height}};
    columns_ = {{0, latent_width}};
    return;
  }
  SLA2_CHECK(tile > 0 && tile % factor == 0 && overlap >= 0 && overlap % factor == 0 && 2 * overlap <= tile, SLA2_E_ARGUMENT,
             "VAE tile {} with overlap {}: both must be multiples of {} and the overlap at most half the tile", tile, overlap,
             factor);
  rows_ = cut(latent_height, tile / factor, overlap / factor);
  columns_ = cut(latent_width, tile / factor, overlap / factor);
}

std::vector<TileGrid::Span> TileGrid::cut(int64_t size, int64_t tile, int64_t overlap) {
  std::vector<Span> spans;
  int64_t begin = 0;
  for (; begin + tile < size; begin += tile - overlap) spans.push_back({begin, tile});
  spans.push_back({begin, size - begin});
  return spans;
}

TileArea TileGrid::area(int64_t index) const noexcept {
  const Span& row = rows_[static_cast<size_t>(index) / columns_.size()];
  const Span& column = columns_[static_cast<size_t>(index) % columns_.size()];
  return {row.begin, column.begin, row.length, column.length};
}

std::vector<float> TileGrid::ramp(const std::vector<Span>& spans, size_t index, int64_t factor) {
  const Span& span = spans[index];
  const int64_t length = span.length * factor;
  std::vector<float> weights(static_cast<size_t>(length), 1.0F);
  if (index > 0) {  // rises over what the previous tile also covers: k / overlap
    const int64_t shared = (spans[index - 1].begin + spans[index - 1].length - span.begin) * factor;
    for (int64_t k = 0; k < shared; ++k) weights[static_cast<size_t>(k)] = static_cast<float>(k) / static_cast<float>(shared);
  }
  if (index + 1 < spans.size()) {
    const int64_t shared = (span.begin + span.length - spans[index + 1].begin) * factor;
    for (int64_t k = 0; k < shared; ++k)
      weights[static_cast<size_t>(length - shared + k)] = 1.0F - static_cast<float>(k) / static_cast<float>(shared);
  }
  return weights;
}

std::vector<float> TileGrid::row_ramp(int64_t index) const {
  return ramp(rows_, static_cast<size_t>(index) / columns_.size(), factor_);
}

std::vector<float> TileGrid::column_ramp(int64_t index) const {
  return ramp(columns_, static_cast<size_t>(index) % columns_.size(), factor_);
}

TileBlender::TileBlender(const TileGrid& grid, int64_t frames)
    : grid_(grid), frames_(frames), clip_(static_cast<size_t>(frames * kVideoChannels * grid.height() * grid.width()), 0.0F) {}

void TileBlender::add(int64_t tile, const FrameChunk& chunk) {
  const TileArea area = grid_.area(tile);
  const std::vector<float> rows = grid_.row_ramp(tile), columns = grid_.column_ramp(tile);
  const int64_t top = area.y * grid_.factor(), left = area.x * grid_.factor();
  parallel_for(chunk.count * kVideoChannels, [&](int64_t plane, int) {
    for (int64_t y = 0; y < chunk.height; ++y) {
      const float* from = chunk.values + (plane * chunk.height + y) * chunk.width;
      float* to = clip_.data() + ((chunk.first * kVideoChannels + plane) * grid_.height() + top + y) * grid_.width() + left;
      for (int64_t x = 0; x < chunk.width; ++x) to[x] += rows[static_cast<size_t>(y)] * columns[static_cast<size_t>(x)] * from[x];
    }
  });
}

void TileBlender::emit(int64_t chunk, const std::function<void(const FrameChunk&)>& on_frames) const {
  const int64_t frame = kVideoChannels * grid_.height() * grid_.width();
  for (int64_t first = 0; first < frames_;) {
    const int64_t count = first == 0 ? 1 : std::min(chunk, frames_ - first);
    on_frames({first, count, grid_.height(), grid_.width(), clip_.data() + first * frame});
    first += count;
  }
}

}  // namespace sla2::vae
