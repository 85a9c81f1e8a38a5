// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <numeric>

#include "latent/latent.h"

using namespace sla2;
using Catch::Contains;
using latent::Grid;
using latent::TokenOrder;

namespace {

std::vector<int32_t> order_of(TokenOrder kind, const Grid& grid, const Grid& tile = {4, 4, 4}) {
  std::vector<int32_t> order(static_cast<size_t>(grid.tokens()));
  latent::make_token_order(kind, grid, tile, order);
  return order;
}

/// Steps between neighbours in the order that are not to a neighbour in the grid, and the longest (in cells, along one axis).
struct Jumps {
  int64_t count = 0, longest = 0, sum = 0;
};
Jumps jumps(const Grid& g, const std::vector<int32_t>& order) {
  Jumps result;
  for (size_t i = 1; i < order.size(); ++i) {
    const int64_t a = order[i - 1], b = order[i];
    const int64_t dx = std::abs(a % g.width - b % g.width), dy = std::abs(a / g.width % g.height - b / g.width % g.height);
    const int64_t df = std::abs(a / (g.width * g.height) - b / (g.width * g.height));
    if (dx + dy + df != 1) ++result.count;
    result.longest = std::max({result.longest, dx, dy, df});
  }
  return result;
}

/// Mean over blocks of 64 consecutive tokens of the size of their bounding box: what a pooled key has to stand for.
double mean_box(const Grid& g, const std::vector<int32_t>& order) {
  double sum = 0;
  int64_t blocks = 0;
  for (size_t first = 0; first + 64 <= order.size(); first += 64, ++blocks) {
    int64_t low[3] = {INT32_MAX, INT32_MAX, INT32_MAX}, high[3] = {0, 0, 0};
    for (size_t i = first; i < first + 64; ++i) {
      const int64_t p[3] = {order[i] / (g.width * g.height), order[i] / g.width % g.height, order[i] % g.width};
      for (int axis = 0; axis < 3; ++axis) low[axis] = std::min(low[axis], p[axis]), high[axis] = std::max(high[axis], p[axis]);
    }
    double diagonal = 0;
    for (int axis = 0; axis < 3; ++axis) diagonal += static_cast<double>((high[axis] - low[axis]) * (high[axis] - low[axis]));
    sum += std::sqrt(diagonal);
  }
  return sum / static_cast<double>(blocks);
}

}  // namespace

TEST_CASE("every order is a permutation, and goes back") {
  for (int64_t f = 1; f <= 9; ++f)
    for (int64_t h = 1; h <= 9; ++h)
      for (int64_t w = 1; w <= 9; ++w)
        for (const TokenOrder kind : {TokenOrder::kRaster, TokenOrder::kTile, TokenOrder::kHilbert}) {
          const std::vector<int32_t> order = order_of(kind, {f, h, w}, {2, 3, 4});
          std::vector<int32_t> inverse(order.size());
          latent::invert_token_order(order, inverse);  // throws where an index is missing
          for (size_t i = 0; i < order.size(); ++i) REQUIRE(inverse[static_cast<size_t>(order[i])] == static_cast<int32_t>(i));
        }
}

TEST_CASE("the Hilbert curve goes from neighbour to neighbour") {
  for (int64_t f = 1; f <= 12; ++f)
    for (int64_t h = 1; h <= 12; ++h)
      for (int64_t w = 1; w <= 12; ++w) {
        const Grid grid{f, h, w};
        const Jumps found = jumps(grid, order_of(TokenOrder::kHilbert, grid));
        CAPTURE(f, h, w, found.count, found.longest);
        REQUIRE(found.longest <= 1);  // never further than a diagonal
        if (f % 2 + h % 2 + w % 2 == 0) REQUIRE(found.count == 0);
      }
  for (const Grid grid : {Grid{21, 30, 52}, Grid{21, 45, 80}, Grid{1, 30, 52}}) {  // Wan at 480p and 720p
    const Jumps found = jumps(grid, order_of(TokenOrder::kHilbert, grid));
    CHECK(found.longest <= 1);
    CHECK(found.count <= grid.tokens() / 100);
  }
}

TEST_CASE("tiles hold together, and ragged ones lose nothing") {
  const std::vector<int32_t> order = order_of(TokenOrder::kTile, {2, 4, 5}, {2, 2, 2});
  CHECK(std::vector<int32_t>(order.begin(), order.begin() + 8) == std::vector<int32_t>{0, 1, 5, 6, 20, 21, 25, 26});
  CHECK(std::vector<int32_t>(order.begin() + 16, order.begin() + 20) == std::vector<int32_t>{4, 9, 24, 29});
}

TEST_CASE("blocks of 64 tokens are smaller boxes in tile and Hilbert order") {
  const Grid grid{21, 30, 52};
  const double raster = mean_box(grid, order_of(TokenOrder::kRaster, grid));
  CHECK(mean_box(grid, order_of(TokenOrder::kHilbert, grid)) < raster / 3);
  CHECK(mean_box(grid, order_of(TokenOrder::kTile, grid)) < raster / 3);
}

TEST_CASE("orders that cannot be are refused") {
  std::vector<int32_t> six(6), other(6);
  CHECK_THROWS_WITH(latent::make_token_order(TokenOrder::kHilbert, {1, 2, 4}, {}, six), Contains("room for 6"));
  CHECK_THROWS_WITH(latent::make_token_order(TokenOrder::kHilbert, {0, 2, 4}, {}, six), Contains("frames is 0"));
  CHECK_THROWS_WITH(latent::make_token_order(TokenOrder::kTile, {1, 2, 3}, {1, 0, 1}, six), Contains("tile height is 0"));
  CHECK_THROWS_WITH(latent::make_token_order(static_cast<TokenOrder>(9), {1, 2, 3}, {}, six), Contains("kind is 9"));
  CHECK_THROWS_WITH(latent::make_token_order(TokenOrder::kRaster, {1 << 20, 1 << 20, 4}, {}, six), Contains("at most"));
  six = {0, 1, 2, 2, 4, 5};
  CHECK_THROWS_WITH(latent::invert_token_order(six, other), Contains("index 2 at 3 is there twice"));
  six = {0, 1, 2, 6, 4, 5};
  CHECK_THROWS_WITH(latent::invert_token_order(six, other), Contains("out of range"));
}
