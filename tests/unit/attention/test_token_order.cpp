// SPDX-License-Identifier: Apache-2.0
// Token orders: permutations with an exact inverse, and how near to each other neighbours in order are.
#include <algorithm>
#include <array>
#include <catch2/catch.hpp>
#include <cstdlib>
#include <numeric>
#include <vector>

#include "attention/token_order.h"
#include "core/core.h"

namespace sla2 {
namespace {

using attention::Box;
using attention::Order;

std::vector<int32_t> order_of(Order kind, const Box& box, const Box& tile = {2, 4, 4}) {
  std::vector<int32_t> order(static_cast<size_t>(box.frames * box.height * box.width));
  attention::token_order(kind, box, tile, order.data());
  return order;
}

bool round_trips(const std::vector<int32_t>& order) {
  std::vector<int32_t> inverse(order.size());
  attention::invert_order(order.data(), static_cast<int64_t>(order.size()), inverse.data());
  for (size_t i = 0; i < order.size(); ++i)
    if (inverse[static_cast<size_t>(order[i])] != static_cast<int32_t>(i)) return false;
  return true;
}

struct Steps {
  int64_t straight = 0, diagonal = 0, jumps = 0;
};

/// Steps between neighbours in order: to a face neighbour, to one across an edge or corner, or further.
Steps steps_of(const std::vector<int32_t>& order, const Box& box) {
  Steps steps;
  const auto at = [&](size_t i) {
    return std::array<int64_t, 3>{order[i] / (box.height * box.width), order[i] / box.width % box.height, order[i] % box.width};
  };
  for (size_t i = 1; i < order.size(); ++i) {
    const auto x = at(i - 1), y = at(i);
    int64_t sum = 0, most = 0;
    for (size_t a = 0; a < x.size(); ++a) sum += std::abs(x[a] - y[a]), most = std::max(most, std::abs(x[a] - y[a]));
    ++(sum == 1 ? steps.straight : most == 1 ? steps.diagonal : steps.jumps);
  }
  return steps;
}

TEST_CASE("every order of every small box is a permutation with an exact inverse", "[token_order]") {
  for (int64_t f = 1; f <= 7; ++f)
    for (int64_t h = 1; h <= 9; ++h)
      for (int64_t w = 1; w <= 9; ++w)
        for (const Order kind : {Order::kRaster, Order::kTiles, Order::kHilbert}) {
          INFO(f << " x " << h << " x " << w << ", kind " << static_cast<int>(kind));
          REQUIRE(round_trips(order_of(kind, {f, h, w}, {2, 3, 4})));
        }
}

TEST_CASE("raster is the identity and tiles go box by box, cut off at the borders", "[token_order]") {
  std::vector<int32_t> identity(60);
  std::iota(identity.begin(), identity.end(), 0);
  CHECK(order_of(Order::kRaster, {3, 4, 5}) == identity);
  CHECK(order_of(Order::kTiles, {1, 3, 5}, {1, 2, 2}) == std::vector<int32_t>{0, 1, 5, 6, 2, 3, 7, 8, 4, 9, 10, 11, 12, 13, 14});
  CHECK(order_of(Order::kTiles, {3, 4, 5}, {100, 100, 100}) == identity);
}

TEST_CASE("Hilbert's curve goes from neighbour to neighbour", "[token_order]") {
  for (int64_t f = 1; f <= 9; ++f)
    for (int64_t h = 1; h <= 11; ++h)
      for (int64_t w = 1; w <= 11; ++w) {
        const Steps steps = steps_of(order_of(Order::kHilbert, {f, h, w}), {f, h, w});
        INFO(f << " x " << h << " x " << w << ": " << steps.diagonal << " diagonal steps, " << steps.jumps << " jumps");
        CHECK(steps.jumps == 0);
        const bool all_even = f % 2 == 0 && h % 2 == 0 && w % 2 == 0;
        CHECK((!all_even || steps.diagonal == 0));
      }
  // Grids of Wan videos and some with odd extents: an odd extent costs a few diagonal steps, a flat box at most one.
  for (const Box& box : {Box{21, 30, 52}, Box{21, 45, 80}, Box{5, 30, 52}, Box{13, 24, 24}}) {
    const Steps steps = steps_of(order_of(Order::kHilbert, box), box);
    CHECK(steps.jumps == 0);
    CHECK(steps.diagonal * 50 < steps.straight);
  }
  for (const Box& box : {Box{1, 45, 81}, Box{1, 30, 53}, Box{1, 31, 52}, Box{17, 1, 9}})
    CHECK(steps_of(order_of(Order::kHilbert, box), box).diagonal <= 1);
}

TEST_CASE("orders that cannot be are refused", "[token_order]") {
  int32_t order[4] = {0, 1, 1, 3}, inverse[4];
  CHECK_THROWS_AS(attention::invert_order(order, 4, inverse), Error);
  CHECK_THROWS_AS(attention::token_order(Order::kRaster, {0, 1, 1}, {}, order), Error);
  CHECK_THROWS_AS(attention::token_order(Order::kTiles, {1, 2, 2}, {1, 0, 1}, order), Error);
  CHECK_THROWS_AS(attention::token_order(Order::kHilbert, {1 << 20, 1 << 20, 1 << 20}, {}, order), Error);
  CHECK_THROWS_AS(attention::token_order(static_cast<Order>(4), {1, 2, 2}, {}, order), Error);
}

}  // namespace
}  // namespace sla2
