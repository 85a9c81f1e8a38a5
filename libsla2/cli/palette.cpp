// SPDX-License-Identifier: Apache-2.0
// Heckbert's median cut (1982): split the box with the widest weighted channel at its median until 256 boxes are there.
#include "palette.h"

#include <algorithm>

namespace sla2::cli {

namespace {

constexpr int kBits = 5, kLevels = 1 << kBits, kCells = kLevels * kLevels * kLevels;
constexpr int kStep = 256 / kLevels;
// Eyes weigh green over red over blue (BT.601 luma, in tenths).
constexpr std::array<int, 3> kWeight{3, 6, 1};

struct Colour {
  std::array<uint8_t, 3> level;  // 5 bits a channel
  uint32_t count;
};

struct Box {
  size_t begin, end;  // range of colours
  int axis;           // widest channel
  int64_t score;      // weighted extent times pixels: what splitting it gains
};

/// 8 bits to the nearest of the 5-bit levels 0 … 31, which stand for 0 … 255 evenly.
int level_of(int value) { return (value * (kLevels - 1) * 2 + 255) / (2 * 255); }

int cell_of(int r, int g, int b) { return (r * kLevels + g) * kLevels + b; }

Box measure(const std::vector<Colour>& colours, size_t begin, size_t end) {
  Box box{begin, end, 0, 0};
  int64_t pixels = 0;
  std::array<int, 3> low{kLevels, kLevels, kLevels}, high{-1, -1, -1};
  for (size_t i = begin; i < end; ++i) {
    pixels += colours[i].count;
    for (int c = 0; c < 3; ++c) {
      low[c] = std::min<int>(low[c], colours[i].level[c]);
      high[c] = std::max<int>(high[c], colours[i].level[c]);
    }
  }
  int widest = 0;
  for (int c = 0; c < 3; ++c) {
    const int extent = (high[c] - low[c]) * kWeight[c];
    if (extent > widest) {
      widest = extent;
      box.axis = c;
    }
  }
  box.score = widest * pixels;
  return box;
}

// Bayer's 8×8 threshold matrix by bit interleaving, centred: -kStep/2 … kStep/2.
int threshold(int x, int y) {
  int value = 0;
  for (int bit = 0; bit < 3; ++bit) {
    const int xb = x >> bit & 1, yb = y >> bit & 1;
    value |= (xb ^ yb) << (5 - 2 * bit) | yb << (4 - 2 * bit);
  }
  constexpr int kThresholds = 64;
  return (2 * value + 1 - kThresholds) * kStep / (2 * kThresholds);
}

}  // namespace

Palette::Palette(const Picture& picture, int width, int height) : nearest_(kCells, -1) {
  std::vector<uint32_t> histogram(kCells, 0);
  for (int y = 0; y < height; ++y) {
    const uint8_t* row = picture.rgb + y * picture.row_bytes;
    for (int x = 0; x < width; ++x)
      ++histogram[cell_of(level_of(row[3 * x]), level_of(row[3 * x + 1]), level_of(row[3 * x + 2]))];
  }
  std::vector<Colour> colours;
  for (int cell = 0; cell < kCells; ++cell) {
    if (histogram[cell] == 0) continue;
    const auto r = static_cast<uint8_t>(cell / (kLevels * kLevels)), g = static_cast<uint8_t>(cell / kLevels % kLevels);
    colours.push_back({{r, g, static_cast<uint8_t>(cell % kLevels)}, histogram[cell]});
  }
  std::vector<Box> boxes{measure(colours, 0, colours.size())};
  while (boxes.size() < kPaletteSize) {
    const auto best = std::max_element(boxes.begin(), boxes.end(), [](const Box& a, const Box& b) { return a.score < b.score; });
    if (best->score == 0) break;  // every box is one colour
    const Box box = *best;
    const auto first = colours.begin() + static_cast<ptrdiff_t>(box.begin),
               last = colours.begin() + static_cast<ptrdiff_t>(box.end);
    std::stable_sort(first, last, [&](const Colour& a, const Colour& b) { return a.level[box.axis] < b.level[box.axis]; });
    int64_t pixels = 0, half = 0;
    for (size_t i = box.begin; i < box.end; ++i) pixels += colours[i].count;
    size_t cut = box.begin;
    while (cut + 1 < box.end && (cut == box.begin || 2 * half < pixels)) half += colours[cut++].count;
    *best = measure(colours, box.begin, cut);
    boxes.push_back(measure(colours, cut, box.end));
  }
  for (const Box& box : boxes) {
    std::array<uint64_t, 3> sum{};
    uint64_t pixels = 0;
    for (size_t i = box.begin; i < box.end; ++i) {
      pixels += colours[i].count;
      for (int c = 0; c < 3; ++c) sum[c] += uint64_t{colours[i].level[c]} * colours[i].count;
    }
    uint32_t packed = 0xff;
    for (int c = 0; c < 3; ++c) {
      const uint64_t mean = pixels == 0 ? 0 : (sum[c] * 255 + pixels * (kLevels - 1) / 2) / (pixels * (kLevels - 1));
      packed = packed << 8 | static_cast<uint32_t>(mean);
    }
    colours_[used_++] = packed;
  }
  for (int i = used_; i < kPaletteSize; ++i) colours_[i] = 0xff000000U;
}

uint8_t Palette::nearest(int cell) {
  if (nearest_[cell] >= 0) return static_cast<uint8_t>(nearest_[cell]);
  const std::array<int, 3> level{cell / (kLevels * kLevels), cell / kLevels % kLevels, cell % kLevels};
  int best = 0;
  int64_t best_distance = INT64_MAX;
  for (int i = 0; i < used_; ++i) {
    int64_t distance = 0;
    for (int c = 0; c < 3; ++c) {
      const int delta = level[c] * 255 / (kLevels - 1) - static_cast<int>(colours_[i] >> (16 - 8 * c) & 0xff);
      distance += int64_t{delta} * delta * kWeight[c];
    }
    if (distance < best_distance) {
      best_distance = distance;
      best = i;
    }
  }
  nearest_[cell] = static_cast<int16_t>(best);
  return static_cast<uint8_t>(best);
}

void Palette::map(const Picture& picture, int width, int height, uint8_t* indices, int row_bytes) {
  for (int y = 0; y < height; ++y) {
    const uint8_t* row = picture.rgb + y * picture.row_bytes;
    uint8_t* out = indices + static_cast<ptrdiff_t>(y) * row_bytes;
    for (int x = 0; x < width; ++x) {
      const int shift = threshold(x & 7, y & 7);
      const auto dithered = [&](int channel) { return level_of(std::clamp(row[3 * x + channel] + shift, 0, 255)); };
      out[x] = nearest(cell_of(dithered(0), dithered(1), dithered(2)));
    }
  }
}

}  // namespace sla2::cli
