// SPDX-License-Identifier: Apache-2.0
// Orders of a video's tokens, as permutations without padding. Attention does not care about order once RoPE is applied, but
// blocks of keys do: neighbours in time and space belong together. Raster runs along rows; tiles concatenate boxes; the
// Hilbert curve, generalised to boxes of any size, goes from neighbour to neighbour.
#include <array>
#include <cstdlib>

#include "latent/latent.h"

namespace sla2::latent {
namespace {

using Vec = std::array<int64_t, 3>;  // frame, row, column

Vec operator+(const Vec& a, const Vec& b) { return {a[0] + b[0], a[1] + b[1], a[2] + b[2]}; }
Vec operator-(const Vec& a, const Vec& b) { return {a[0] - b[0], a[1] - b[1], a[2] - b[2]}; }
Vec operator-(const Vec& a) { return {-a[0], -a[1], -a[2]}; }
int64_t length(const Vec& a) { return std::abs(a[0] + a[1] + a[2]); }  // of an axis: two of the three are 0
int64_t sign(int64_t x) { return (x > 0) - (x < 0); }
Vec unit(const Vec& a) { return {sign(a[0]), sign(a[1]), sign(a[2])}; }

/// Half of an axis, made even where the axis is long enough: an odd half would let the curve end on the wrong side.
Vec half(const Vec& a) {
  const Vec h{a[0] / 2, a[1] / 2, a[2] / 2};
  return length(h) % 2 == 1 && length(a) > 2 ? h + unit(a) : h;
}

/// A generalised Hilbert curve: fills the box spanned by a, b, c from its corner and ends at the far end of a. Boxes that are
/// much longer one way are cut along it; others fold into five parts, as the classical curve does at every level.
class Curve {
 public:
  Curve(const Grid& grid, std::span<int32_t> order) : grid_(grid), order_(order) {}

  void fill(const Vec& at, const Vec& a, const Vec& b, const Vec& c) {
    const int64_t w = length(a), h = length(b), d = length(c);
    if (h == 1 && d == 1) return line(at, a);
    if (w == 1 && d == 1) return line(at, b);
    if (w == 1 && h == 1) return line(at, c);
    const Vec a2 = half(a), b2 = half(b), c2 = half(c), da = unit(a), db = unit(b), dc = unit(c);
    if (2 * w > 3 * h && 2 * w > 3 * d) {
      fill(at, a2, b, c);
      fill(at + a2, a - a2, b, c);
    } else if (3 * h > 4 * d) {
      fill(at, b2, c, a2);
      fill(at + b2, a, b - b2, c);
      fill(at + (a - da) + (b2 - db), -b2, c, -(a - a2));
    } else if (3 * d > 4 * h) {
      fill(at, c2, a2, b);
      fill(at + c2, a, b, c - c2);
      fill(at + (a - da) + (c2 - dc), -c2, -(a - a2), b);
    } else {
      fill(at, b2, c2, a2);
      fill(at + b2, c, a2, b - b2);
      fill(at + (b2 - db) + (c - dc), a, -b2, -(c - c2));
      fill(at + (a - da) + b2 + (c - dc), -c, -(a - a2), b - b2);
      fill(at + (a - da) + (b2 - db), -b2, c2, -(a - a2));
    }
  }

 private:
  void line(const Vec& at, const Vec& axis) {
    const Vec step = unit(axis);
    Vec p = at;
    for (int64_t i = 0; i < length(axis); ++i, p = p + step)
      order_[next_++] = static_cast<int32_t>((p[0] * grid_.height + p[1]) * grid_.width + p[2]);
  }

  const Grid& grid_;
  std::span<int32_t> order_;
  size_t next_ = 0;
};

void hilbert(const Grid& g, std::span<int32_t> order) {
  const Vec t{g.frames, 0, 0}, y{0, g.height, 0}, x{0, 0, g.width};
  Curve curve(g, order);
  if (g.width >= g.height && g.width >= g.frames) return curve.fill({}, x, y, t);
  if (g.height >= g.frames) return curve.fill({}, y, x, t);
  curve.fill({}, t, x, y);
}

void tiles(const Grid& g, const Grid& tile, std::span<int32_t> order) {
  size_t next = 0;
  for (int64_t f0 = 0; f0 < g.frames; f0 += tile.frames)
    for (int64_t y0 = 0; y0 < g.height; y0 += tile.height)
      for (int64_t x0 = 0; x0 < g.width; x0 += tile.width)
        for (int64_t f = f0; f < std::min(f0 + tile.frames, g.frames); ++f)
          for (int64_t y = y0; y < std::min(y0 + tile.height, g.height); ++y)
            for (int64_t x = x0; x < std::min(x0 + tile.width, g.width); ++x)
              order[next++] = static_cast<int32_t>((f * g.height + y) * g.width + x);
}

}  // namespace

void make_token_order(TokenOrder kind, const Grid& grid, const Grid& tile, std::span<int32_t> order) {
  for (const auto& [name, value] : {std::pair{"frames", grid.frames}, {"height", grid.height}, {"width", grid.width}})
    SLA2_CHECK(value >= 1 && value <= INT32_MAX, SLA2_E_ARGUMENT, "token order: {} is {}; expected 1 to 2^31 - 1", name, value);
  SLA2_CHECK(grid.frames <= INT32_MAX / grid.height && grid.frames * grid.height <= INT32_MAX / grid.width, SLA2_E_ARGUMENT,
             "token order: {} x {} x {} tokens; at most 2^31 - 1 are supported", grid.frames, grid.height, grid.width);
  SLA2_CHECK(static_cast<int64_t>(order.size()) == grid.tokens(), SLA2_E_ARGUMENT,
             "token order: room for {} indices; the grid has {} tokens", order.size(), grid.tokens());
  switch (kind) {
    case TokenOrder::kRaster:
      for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int32_t>(i);
      return;
    case TokenOrder::kTile:
      for (const auto& [name, value] : {std::pair{"frames", tile.frames}, {"height", tile.height}, {"width", tile.width}})
        SLA2_CHECK(value >= 1, SLA2_E_ARGUMENT, "token order: tile {} is {}; expected at least 1", name, value);
      return tiles(grid, tile, order);
    case TokenOrder::kHilbert: return hilbert(grid, order);
  }
  fail(SLA2_E_ARGUMENT, "token order: kind is {}; expected 1 (raster), 2 (tile) or 3 (hilbert)", static_cast<int>(kind));
}

void invert_token_order(std::span<const int32_t> order, std::span<int32_t> inverse) {
  SLA2_CHECK(order.size() == inverse.size(), SLA2_E_ARGUMENT, "token order: {} indices, room for {} inverses", order.size(),
             inverse.size());
  for (int32_t& x : inverse) x = -1;
  for (size_t i = 0; i < order.size(); ++i) {
    const int32_t at = order[i];
    SLA2_CHECK(at >= 0 && static_cast<size_t>(at) < order.size() && inverse[static_cast<size_t>(at)] < 0, SLA2_E_ARGUMENT,
               "token order: index {} at {} is {}; expected each of 0 to {} once", at, i,
               at < 0 || static_cast<size_t>(at) >= order.size() ? "out of range" : "there twice", order.size() - 1);
    inverse[static_cast<size_t>(at)] = static_cast<int32_t>(i);
  }
}

}  // namespace sla2::latent
