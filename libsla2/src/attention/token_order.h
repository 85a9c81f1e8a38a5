// SPDX-License-Identifier: Apache-2.0
// Orders of the tokens of a video, so that blocks of consecutive tokens are compact in space and time. Index tables only: nothing
// is padded, and every order is a permutation that has an exact inverse.
#pragma once
#include <cstdint>

namespace sla2::attention {

enum class Order : uint8_t {
  kRaster = 1,   ///< frame by frame, line by line
  kTiles = 2,    ///< boxes one after the other, cut off at the borders
  kHilbert = 3,  ///< a curve from neighbour to neighbour, for any box
};

struct Box {
  int64_t frames = 1, height = 1, width = 1;
};

/// order[i] = raster index (frame · height + y) · width + x of the i-th token; f·h·w entries. `tile`: kTiles only.
/// Hilbert: consecutive tokens are neighbours; where an extent is odd a few steps go diagonally (under 2 % on video grids).
/// Throws ARGUMENT: kind, extents or tiles below 1, more than 2^31 - 1 tokens.
void token_order(Order kind, const Box& box, const Box& tile, int32_t* order);

/// inverse[order[i]] = i. Throws ARGUMENT where `order` is no permutation; inverse is then undefined.
void invert_order(const int32_t* order, int64_t count, int32_t* inverse);

}  // namespace sla2::attention
