// SPDX-License-Identifier: Apache-2.0
// The linear branch in bf16 products with fp32 sums. φ is softmax over the channels of a token (feature_map.h).
//
//   h_j = φ(K_j)ᵀ·V_j, rounded to bf16;  z_j = column sums of φ(K_j);  H = Σ h_j, rounded to bf16;  out = φ(Q)·H
//
// z_j sums the rounded φ, as the products do: the weights of a row then add up to one up to the rounding of h_j and H.
// Totals are sums of the rounded h_j, so that "totals minus kept" leaves exactly what was not kept, to fp32.
//
// Letters: P = ceil(D / 16), W = 16·P. A state (h_j, H) is [D/2][W][2]: for a pair of channels of φ a line of channels of V.
// Widened to fp32 it is [D/2][P][2][16]: each 16 pairs as 16 first and 16 second numbers.
#pragma once
#include <cstdint>

#include "core/dtype.h"

namespace sla2::kernels {

/// out [rows][D] = φ of fp32 rows [rows, D].
using FeaturesBf16 = void (*)(int64_t rows, int64_t dim, const float* x, bf16_t* out);
/// φ of a block of keys: rows [n, D] to [block/2][W][2], for each pair of keys a line of channels; rest zero. z [D]: sums.
using KeyFeaturesBf16 = void (*)(const float* rows, int64_t n, int64_t dim, int64_t block, bf16_t* out, float* z);
/// h = φᵀ·V over `keys` keys, from key features and packed values [block/2][W][2].
using KeyStateBf16 = void (*)(int64_t keys, int64_t dim, const bf16_t* features, const bf16_t* values, bf16_t* h);

struct SumStatesBf16 {
  int64_t size;          ///< elements of a state to do, a multiple of 32
  const bf16_t* blocks;  ///< first of them in block 0
  int64_t stride;        ///< from block to block
  const int32_t* list;   ///< [count] blocks, or null for 0 … count - 1
  int64_t count;
  float sign;         ///< of the sum
  const float* base;  ///< widened, or null for 0
  bf16_t* out;        ///< base + sign · Σ in bf16; or null
  float* wide;        ///< the same in fp32, widened; or null
};
using SumStatesBf16Op = void (*)(const SumStatesBf16& args);

/// out [rows][W] = features [rows][D] · H.
using ApplyStateBf16 = void (*)(int64_t rows, int64_t dim, const bf16_t* features, const bf16_t* h, float* out);
/// rest [rows] = φ·z_rest, total [rows] = φ·z_total, in fp64.
using FeatureSumsBf16 = void (*)(int64_t rows, int64_t dim, const bf16_t* features, const double* z_rest, const double* z_total,
                                 double* rest, double* total);

#define SLA2_LINEAR_BF16_OPS                                                                                             \
  void features_bf16(int64_t rows, int64_t dim, const float* x, bf16_t* out);                                            \
  void key_features_bf16(const float* rows, int64_t n, int64_t dim, int64_t block, bf16_t* out, float* z);               \
  void key_state_bf16(int64_t keys, int64_t dim, const bf16_t* features, const bf16_t* values, bf16_t* h);               \
  void sum_states_bf16(const SumStatesBf16& args);                                                                       \
  void apply_state_bf16(int64_t rows, int64_t dim, const bf16_t* features, const bf16_t* h, float* out);                 \
  void feature_sums_bf16(int64_t rows, int64_t dim, const bf16_t* features, const double* z_rest, const double* z_total, \
                         double* rest, double* total);
namespace ref {
SLA2_LINEAR_BF16_OPS
}
namespace avx512_bf16 {
SLA2_LINEAR_BF16_OPS
}
#undef SLA2_LINEAR_BF16_OPS

}  // namespace sla2::kernels
