// SPDX-License-Identifier: Apache-2.0
// Winograd's three steps, AVX-512 + VDPBF16PS. Nothing of the standard library here: its inline functions would be compiled
// for this instruction set and could be linked into code that runs on every CPU.
//
// Sizes. A product tile is 8 rows x 48 columns: 24 accumulators, 3 registers of weights and one broadcast; per pair of
// channels 24 products wait for 11 loads. 48 divides the channels of Wan's VAE (96, 192, 384).
#include <immintrin.h>

#include "kernels/winograd_ops.h"

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wuninitialized"        // GCC 12 sees both in its own _mm512_undefined_ps
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // (GCC bug 105593)
#endif

namespace sla2::kernels {
namespace {

using Vec = __m512;
using Pairs = __m512bh;
constexpr int64_t kLanes = 16;
constexpr int kRows = kWinogradRows;
static_assert(kLanes == kWinogradBlock);

inline Vec add(Vec a, Vec b) { return _mm512_add_ps(a, b); }
inline Vec sub(Vec a, Vec b) { return _mm512_sub_ps(a, b); }
inline Pairs load_pairs(const bf16_t* at) { return reinterpret_cast<Pairs>(_mm512_loadu_si512(at)); }
inline Pairs broadcast_pair(const bf16_t* at) {
  int32_t both;
  __builtin_memcpy(&both, at, sizeof both);
  return reinterpret_cast<Pairs>(_mm512_set1_epi32(both));
}
inline Vec widen(const bf16_t* at) {
  constexpr int kHalf = 16;
  const __m256i narrow = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(narrow), kHalf));
}
inline void store_narrow(Vec value, bf16_t* at) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(at), reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(value)));
}

alignas(64) constexpr bf16_t kZeros[kLanes] = {};

/// The rows of a frame that a tile row sees; rows outside are zeros.
template <int size>
struct SeenRows {
  const bf16_t* at[size];
  int64_t step[size];
  int64_t width;
  SeenRows(const bf16_t* source, const TileRun& run, int64_t top) : width(run.width) {
    for (int i = 0; i < size; ++i) {
      const int64_t y = top + i;
      const bool inside = y >= 0 && y < run.height;
      at[i] = inside ? source + y * run.width * kLanes : kZeros;
      step[i] = inside ? kLanes : 0;
    }
  }
  [[nodiscard]] Vec load(int row, int64_t x) const { return widen(at[row] + x * step[row]); }
};

/// Where a tile's channels lie within a point.
inline int64_t place(int64_t tile, int64_t group) { return tile / kRows * group + tile % kRows * kLanes; }

/// Column x of B^T d: four points of four rows.
inline void column_same(const SeenRows<4>& rows, int64_t x, Vec out[4]) {
  if (x < 0 || x >= rows.width) {
    for (int i = 0; i < 4; ++i) out[i] = _mm512_setzero_ps();
    return;
  }
  const Vec d0 = rows.load(0, x), d1 = rows.load(1, x), d2 = rows.load(2, x), d3 = rows.load(3, x);
  out[0] = sub(d0, d2);
  out[1] = add(d1, d2);
  out[2] = sub(d2, d1);
  out[3] = sub(d1, d3);
}

void sources_same(const TileRun& run, const bf16_t* source, bf16_t* v, int64_t plane, int64_t group, int64_t tile) {
  const SeenRows<4> rows(source, run, 2 * run.row - 1);
  int64_t x = 2 * run.first - 1;
  Vec c0[4], c1[4], c2[4], c3[4];
  column_same(rows, x, c2);
  column_same(rows, x + 1, c3);
  for (int64_t t = 0; t < run.count; ++t, x += 2) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      c0[i] = c2[i];
      c1[i] = c3[i];
    }
    column_same(rows, x + 2, c2);
    column_same(rows, x + 3, c3);
    bf16_t* to = v + place(tile + t, group);
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i, to += 4 * plane) {
      store_narrow(sub(c0[i], c2[i]), to);
      store_narrow(add(c1[i], c2[i]), to + plane);
      store_narrow(sub(c2[i], c1[i]), to + 2 * plane);
      store_narrow(sub(c1[i], c3[i]), to + 3 * plane);
    }
  }
}

/// Column x of three rows around a pixel: what is above less the middle, the middle, the middle less what is below.
inline void column_doubled(const SeenRows<3>& rows, int64_t x, Vec out[3]) {
  if (x < 0 || x >= rows.width) {
    for (int i = 0; i < 3; ++i) out[i] = _mm512_setzero_ps();
    return;
  }
  const Vec middle = rows.load(1, x);
  out[0] = sub(rows.load(0, x), middle);
  out[1] = middle;
  out[2] = sub(middle, rows.load(2, x));
}

void sources_doubled(const TileRun& run, const bf16_t* source, bf16_t* v, int64_t plane, int64_t group, int64_t tile) {
  const SeenRows<3> rows(source, run, run.row - 1);
  Vec c0[3], c1[3], c2[3];
  column_doubled(rows, run.first - 1, c1);
  column_doubled(rows, run.first, c2);
  for (int64_t t = 0; t < run.count; ++t) {
#pragma GCC unroll 3
    for (int i = 0; i < 3; ++i) {
      c0[i] = c1[i];
      c1[i] = c2[i];
    }
    column_doubled(rows, run.first + t + 1, c2);
    bf16_t* to = v + place(tile + t, group);
#pragma GCC unroll 3
    for (int i = 0; i < 3; ++i, to += 3 * plane) {
      store_narrow(sub(c0[i], c1[i]), to);
      store_narrow(c1[i], to + plane);
      store_narrow(sub(c1[i], c2[i]), to + 2 * plane);
    }
  }
}

void sources(WinogradForm form, const TileRun& run, const bf16_t* source, bf16_t* v, int64_t plane, int64_t group, int64_t tile) {
  (form == WinogradForm::kSame ? sources_same : sources_doubled)(run, source, v, plane, group, tile);
}

template <int vecs>
void products_of(int64_t groups, int64_t depth, const bf16_t* v, int64_t group, const bf16_t* w, float* m, bool accumulate) {
  constexpr int64_t kPiece = kRows * kLanes, kWeights = kLanes * vecs * kLanes;  // elements per block of channels
  constexpr int64_t kLineElements = 32;                                          // of a cache line
  const int64_t ahead = kWeights / groups / kLineElements * kLineElements + kLineElements;
  const bf16_t* const next_weights = w + depth * kWeights;
  for (int64_t g = 0; g < groups; ++g, v += group, m += kRows * kWinogradColumns) {
    Vec sum[kRows][vecs];
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 3
      for (int i = 0; i < vecs; ++i)
        sum[r][i] = accumulate ? _mm512_loadu_ps(m + r * kWinogradColumns + i * kLanes) : _mm512_setzero_ps();
    const bf16_t* x = v;
    const bf16_t* weights = w;
    const bf16_t* soon = next_weights + g * ahead;
    for (int64_t block = 0; block < depth; ++block, x += kPiece, soon += kWeights) {
#pragma GCC unroll 4
      for (int64_t i = 0; i < kPiece; i += kLineElements) _mm_prefetch(x + group + i, _MM_HINT_T0);
      for (int64_t i = 0; i < ahead; i += kLineElements) _mm_prefetch(soon + i, _MM_HINT_T1);
      for (int64_t k = 0; k < kLanes; k += 2, weights += 2 * vecs * kLanes) {
        Pairs b[vecs];
#pragma GCC unroll 3
        for (int i = 0; i < vecs; ++i) b[i] = load_pairs(weights + i * 2 * kLanes);
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r) {
          const Pairs a = broadcast_pair(x + r * kLanes + k);
#pragma GCC unroll 3
          for (int i = 0; i < vecs; ++i) sum[r][i] = _mm512_dpbf16_ps(sum[r][i], a, b[i]);
        }
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 3
      for (int i = 0; i < vecs; ++i) _mm512_storeu_ps(m + r * kWinogradColumns + i * kLanes, sum[r][i]);
  }
}

void products(int64_t groups, int64_t depth, int64_t blocks, const bf16_t* v, int64_t group, const bf16_t* w, float* m,
              bool accumulate) {
  switch (blocks) {
    case 1: products_of<1>(groups, depth, v, group, w, m, accumulate); break;
    case 2: products_of<2>(groups, depth, v, group, w, m, accumulate); break;
    default: products_of<3>(groups, depth, v, group, w, m, accumulate); break;
  }
}

/// A^T along one axis. F(2, 3) has four points; of a doubled frame the third is zero and the last has the other sign.
inline void fold(const Vec m[4], Vec out[2]) {
  out[0] = add(add(m[0], m[1]), m[2]);
  out[1] = sub(sub(m[1], m[2]), m[3]);
}
inline void fold(const Vec m[3], Vec out[2], int /*doubled*/) {
  out[0] = add(m[0], m[1]);
  out[1] = sub(m[1], m[2]);
}

inline void put(Vec value, float* at, bool accumulate) {
  _mm512_storeu_ps(at, accumulate ? add(_mm512_loadu_ps(at), value) : value);
}

void results_same(const TileRun& run, const float* m, int64_t plane, const float* bias, float* dst, bool accumulate) {
  const Vec shift = _mm512_loadu_ps(bias);
  const bool lower = 2 * run.row + 1 < run.height;
  for (int64_t t = 0; t < run.count; ++t) {
    const float* const from = m + t * kWinogradColumns;
    Vec half[2][4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      Vec column[4], folded[2];
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) column[i] = _mm512_loadu_ps(from + (4 * i + j) * plane);
      fold(column, folded);
      half[0][j] = folded[0];
      half[1][j] = folded[1];
    }
    const int64_t x = 2 * (run.first + t);
    const bool right = x + 1 < run.width;
    float* const at = dst + (2 * run.row * run.width + x) * kLanes;
    Vec pair[2];
    fold(half[0], pair);
    put(add(pair[0], shift), at, accumulate);
    if (right) put(add(pair[1], shift), at + kLanes, accumulate);
    if (!lower) continue;
    fold(half[1], pair);
    put(add(pair[0], shift), at + run.width * kLanes, accumulate);
    if (right) put(add(pair[1], shift), at + (run.width + 1) * kLanes, accumulate);
  }
}

void results_doubled(const TileRun& run, const float* m, int64_t plane, const float* bias, float* dst, bool accumulate) {
  const Vec shift = _mm512_loadu_ps(bias);
  for (int64_t t = 0; t < run.count; ++t) {
    const float* const from = m + t * kWinogradColumns;
    Vec half[2][3];
#pragma GCC unroll 3
    for (int j = 0; j < 3; ++j) {
      Vec column[3], folded[2];
#pragma GCC unroll 3
      for (int i = 0; i < 3; ++i) column[i] = _mm512_loadu_ps(from + (3 * i + j) * plane);
      fold(column, folded, 0);
      half[0][j] = folded[0];
      half[1][j] = folded[1];
    }
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i) {
      float* const at = dst + ((2 * run.row + i) * 2 * run.width + 2 * (run.first + t)) * kLanes;
      Vec pair[2];
      fold(half[i], pair, 0);
      put(add(pair[0], shift), at, accumulate);
      put(add(pair[1], shift), at + kLanes, accumulate);
    }
  }
}

void results(WinogradForm form, const TileRun& run, const float* m, int64_t plane, const float* bias, float* dst,
             bool accumulate) {
  (form == WinogradForm::kSame ? results_same : results_doubled)(run, m, plane, bias, dst, accumulate);
}

}  // namespace

const WinogradOps& winograd_avx512_bf16() {
  static constexpr WinogradOps ops{sources, products, results};
  return ops;
}

}  // namespace sla2::kernels
