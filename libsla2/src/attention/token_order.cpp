// SPDX-License-Identifier: Apache-2.0
#include "attention/token_order.h"

#include <algorithm>
#include <array>
#include <cstdlib>

#include "core/core.h"

namespace sla2::attention {
namespace {

using Vector = std::array<int64_t, 3>;  // frames, height, width

Vector operator+(const Vector& a, const Vector& b) { return {a[0] + b[0], a[1] + b[1], a[2] + b[2]}; }
Vector operator-(const Vector& a, const Vector& b) { return {a[0] - b[0], a[1] - b[1], a[2] - b[2]}; }
Vector operator-(const Vector& a) { return {-a[0], -a[1], -a[2]}; }

/// Edges are parallel to an axis: one component is not 0.
int64_t length(const Vector& edge) { return std::abs(edge[0] + edge[1] + edge[2]); }
Vector unit(const Vector& edge) {
  Vector u{};
  for (size_t i = 0; i < u.size(); ++i) u[i] = (edge[i] > 0 ? 1 : 0) - (edge[i] < 0 ? 1 : 0);
  return u;
}
/// About half of an edge; an even number where there is a choice, because a curve through an even extent ends beside its start.
Vector half(const Vector& edge) {
  const Vector h{edge[0] / 2, edge[1] / 2, edge[2] / 2};
  return length(h) % 2 != 0 && length(edge) > 2 ? h + unit(edge) : h;
}

/// Hilbert's curve for any box: from the corner `at` to the far end of edge a, the box split into sub-boxes whose curves join.
/// Extents need be no powers of two: a box is split along its long edges only, until it is a line.
class Curve {
 public:
  Curve(const Box& box, int32_t* order) : box_(box), next_(order) {}

  void walk(const Vector& at, const Vector& a, const Vector& b, const Vector& c) {
    const int64_t w = length(a), h = length(b), d = length(c);
    if (h == 1 && d == 1) return line(at, a);
    if (w == 1 && d == 1) return line(at, b);
    if (w == 1 && h == 1) return line(at, c);
    const Vector first = half(a), rest = a - first, end = a - unit(a);
    if (2 * w > 3 * h && 2 * w > 3 * d) {  // long: two boxes in a row
      walk(at, first, b, c);
      walk(at + first, rest, b, c);
    } else if (3 * h > 4 * d) {  // flat in c: out along b, along a, back along b
      fold(at, {first, rest, end}, a, b, c, true);
    } else if (3 * d > 4 * h) {  // flat in b
      fold(at, {first, rest, end}, a, c, b, false);
    } else {
      five(at, a, b, c);
    }
  }

 private:
  struct Split {
    Vector first, rest, end;
  };

  /// Three boxes: away from a along `side`, the whole length of a, and back. `flat` is not split.
  void fold(const Vector& at, const Split& s, const Vector& a, const Vector& side, const Vector& flat, bool flat_second) {
    const Vector out = half(side), top = out - unit(side);
    const auto go = [&](const Vector& from, const Vector& along, const Vector& across) {
      flat_second ? walk(from, along, flat, across) : walk(from, along, across, flat);
    };
    go(at, out, s.first);
    flat_second ? walk(at + out, a, side - out, flat) : walk(at + out, a, flat, side - out);
    go(at + s.end + top, -out, -s.rest);
  }

  /// A cube-like box in five parts.
  void five(const Vector& at, const Vector& a, const Vector& b, const Vector& c) {
    const Vector a1 = half(a), b1 = half(b), c1 = half(c);
    const Vector end_a = a - unit(a), end_b1 = b1 - unit(b), end_c = c - unit(c);
    walk(at, b1, c1, a1);
    walk(at + b1, c, a1, b - b1);
    walk(at + end_b1 + end_c, a, -b1, -(c - c1));
    walk(at + end_a + b1 + end_c, -c, -(a - a1), b - b1);
    walk(at + end_a + end_b1, -b1, c1, -(a - a1));
  }

  void line(Vector at, const Vector& along) {
    const Vector step = unit(along);
    for (int64_t i = 0; i < length(along); ++i, at = at + step)
      *next_++ = static_cast<int32_t>((at[0] * box_.height + at[1]) * box_.width + at[2]);
  }

  Box box_;
  int32_t* next_;
};

void hilbert(const Box& box, int32_t* order) {
  Vector edges[3] = {{box.frames, 0, 0}, {0, box.height, 0}, {0, 0, box.width}};
  std::stable_sort(edges, edges + 3,
                   [](const Vector& x, const Vector& y) { return length(x) > length(y); });  // along the longest
  Curve(box, order).walk({}, edges[0], edges[1], edges[2]);
}

void tiles(const Box& box, const Box& tile, int32_t* order) {
  for (int64_t f0 = 0; f0 < box.frames; f0 += tile.frames)
    for (int64_t y0 = 0; y0 < box.height; y0 += tile.height)
      for (int64_t x0 = 0; x0 < box.width; x0 += tile.width)
        for (int64_t f = f0; f < std::min(f0 + tile.frames, box.frames); ++f)
          for (int64_t y = y0; y < std::min(y0 + tile.height, box.height); ++y)
            for (int64_t x = x0; x < std::min(x0 + tile.width, box.width); ++x)
              *order++ = static_cast<int32_t>((f * box.height + y) * box.width + x);
}

void check_box(const char* name, const Box& b) {
  SLA2_CHECK(b.frames >= 1 && b.height >= 1 && b.width >= 1, SLA2_E_ARGUMENT,
             "token order: {} is {} x {} x {}; expected at least 1 x 1 x 1", name, b.frames, b.height, b.width);
}

}  // namespace

void token_order(Order kind, const Box& box, const Box& tile, int32_t* order) {
  check_box("the box", box);
  SLA2_CHECK(box.height <= INT32_MAX && box.width <= INT32_MAX / box.height && box.frames <= INT32_MAX / (box.height * box.width),
             SLA2_E_ARGUMENT, "token order: {} x {} x {} tokens are more than 2^31 - 1", box.frames, box.height, box.width);
  switch (kind) {
    case Order::kRaster: tiles(box, box, order); return;
    case Order::kTiles:
      check_box("the tile", tile);
      tiles(box, {std::min(tile.frames, box.frames), std::min(tile.height, box.height), std::min(tile.width, box.width)}, order);
      return;
    case Order::kHilbert: hilbert(box, order); return;
  }
  fail(SLA2_E_ARGUMENT, "token order: kind is {}; expected 1 (raster), 2 (tiles) or 3 (hilbert)", static_cast<int>(kind));
}

void invert_order(const int32_t* order, int64_t count, int32_t* inverse) {
  std::fill_n(inverse, count, -1);
  for (int64_t i = 0; i < count; ++i) {
    SLA2_CHECK(order[i] >= 0 && order[i] < count && inverse[order[i]] == -1, SLA2_E_ARGUMENT,
               "token order: entry {} is {}; expected each number below {} once", i, order[i], count);
    inverse[order[i]] = static_cast<int32_t>(i);
  }
}

}  // namespace sla2::attention
