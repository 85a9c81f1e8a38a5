// SPDX-License-Identifier: Apache-2.0
// Router scores of one query block against every key block.
//
//   scores[j] = scale · Σ_c q[c] · keys[c, j]      q [dim] pooled query, keys [dim, key_row] pooled keys, channel-major
//
// fp64 sums over c in order. A product of two fp32 numbers is exact in fp64, so FMA and multiply-then-add agree and every
// instruction set gives the same bits: which blocks are kept never depends on the machine.
#pragma once
#include <cstdint>

#include "kernels/tiles.h"

namespace sla2::kernels {

/// key_row is a multiple of kRouteLanes; scores has key_row entries.
using RouteScores = void (*)(int64_t dim, int64_t key_row, const float* q, const float* keys, double scale, double* scores);

namespace ref {
void route_scores(int64_t dim, int64_t key_row, const float* q, const float* keys, double scale, double* scores);
}
namespace avx512 {
void route_scores(int64_t dim, int64_t key_row, const float* q, const float* keys, double scale, double* scores);
}
namespace avx2 {
void route_scores(int64_t dim, int64_t key_row, const float* q, const float* keys, double scale, double* scores);
}

}  // namespace sla2::kernels
