// SPDX-License-Identifier: Apache-2.0
// The linear branch in bf16, AVX-512 + VDPBF16PS.
//
// Both products are 4 x 64 tiles in 16 registers over pairs: a broadcast pair of the left side, a line of the right side.
// Sums of states stream 32 KB per block (D 128) from the outer caches: 256 bytes of each block at a time, widened by a shift
// and a mask, in 8 registers.
#include "kernels/linear_bf16.h"

#include "kernels/cpu/bf16_vectors.h"

namespace sla2::kernels::avx512_bf16 {
namespace {

/// A product over pairs: left pair (r, k) at left + 2 · (r · left_row + k · left_step), right line k at right + k · 2 · width.
struct Product {
  int64_t rows, steps, width;
  const bf16_t* left;
  int64_t left_row, left_step;
  const bf16_t* right;
};

template <int rows_count, int vecs>
inline void multiply(const Product& p, int64_t row, int64_t column, Vec (&sum)[rows_count][vecs]) {
  const bf16_t *left = p.left + 2 * row * p.left_row, *right = p.right + 2 * column;
#pragma GCC unroll 8
  for (int r = 0; r < rows_count; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < vecs; ++v) sum[r][v] = _mm512_setzero_ps();
  for (int64_t k = 0; k < p.steps; ++k, left += 2 * p.left_step, right += 2 * p.width) {
    Pairs b[vecs];
#pragma GCC unroll 8
    for (int v = 0; v < vecs; ++v) b[v] = load_pairs(right + v * kPairLanes);
#pragma GCC unroll 8
    for (int r = 0; r < rows_count; ++r) {
      const Pairs x = reinterpret_cast<Pairs>(broadcast_32(left + 2 * r * p.left_row));
#pragma GCC unroll 8
      for (int v = 0; v < vecs; ++v) sum[r][v] = _mm512_dpbf16_ps(sum[r][v], x, b[v]);
    }
  }
}

/// Rows of fp32.
template <int rows_count, int vecs>
void to_rows(const Product& p, int64_t row, int64_t column, void* out) {
  Vec sum[rows_count][vecs];
  multiply(p, row, column, sum);
#pragma GCC unroll 8
  for (int r = 0; r < rows_count; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < vecs; ++v)
      _mm512_storeu_ps(static_cast<float*>(out) + (row + r) * p.width + column + v * kLanes, sum[r][v]);
}

/// A state in bf16; rows_count is even.
template <int rows_count, int vecs>
void to_state(const Product& p, int64_t row, int64_t column, void* out) {
  Vec sum[rows_count][vecs];
  multiply(p, row, column, sum);
#pragma GCC unroll 8
  for (int r = 0; r + 1 < rows_count; r += 2)
#pragma GCC unroll 8
    for (int v = 0; v < vecs; ++v)
      _mm512_storeu_si512(static_cast<bf16_t*>(out) + (row + r) * p.width + 2 * column + v * kPairLanes,
                          interleave(sum[r][v], sum[r + 1][v]));
}

using TileOp = void (*)(const Product&, int64_t, int64_t, void*);
// NOLINTBEGIN(bugprone-macro-parentheses): names of templates
#define SLA2_VECS(name, rows) \
  { name<rows, 1>, name<rows, 2>, name<rows, 3>, name<rows, 4> }
constexpr TileOp kToRows[kRows][kVecs] = {SLA2_VECS(to_rows, 1), SLA2_VECS(to_rows, 2), SLA2_VECS(to_rows, 3),
                                          SLA2_VECS(to_rows, 4)};
constexpr TileOp kToState[kVecs] = SLA2_VECS(to_state, kRows);
#undef SLA2_VECS
// NOLINTEND(bugprone-macro-parentheses)

/// A line of the right side is 256 bytes here: a strip of 64 columns of it stays in L1 while all rows pass.
template <typename Choose>
inline void run(const Product& p, const Choose& choose, void* out) {
  for (int64_t c = 0; c < p.width; c += kColumns) {
    const int64_t vecs = least(kColumns, p.width - c) / kLanes;
    for (int64_t r = 0; r < p.rows; r += kRows) choose(least(kRows, p.rows - r), vecs)(p, r, c, out);
  }
}

/// N vectors of pairs of every block of the list.
template <int vecs>
inline void sum_vectors(const SumStatesBf16& s, int64_t first) {
  constexpr int64_t kTogether = 32;  // blocks per inner sum, so that a sum of thousands keeps its digits
  Vec all[vecs][2];
#pragma GCC unroll 8
  for (int v = 0; v < vecs; ++v) all[v][0] = all[v][1] = _mm512_setzero_ps();
  for (int64_t begin = 0; begin < s.count; begin += kTogether) {
    Vec some[vecs][2];
#pragma GCC unroll 8
    for (int v = 0; v < vecs; ++v) some[v][0] = some[v][1] = _mm512_setzero_ps();
    const int64_t end = least(begin + kTogether, s.count);
    for (int64_t n = begin; n < end; ++n) {
      const bf16_t* const at = s.blocks + (s.list == nullptr ? n : s.list[n]) * s.stride + first;
#pragma GCC unroll 8
      for (int v = 0; v < vecs; ++v) {
        const __m512i pairs = _mm512_loadu_si512(at + v * kPairLanes);
        some[v][0] = _mm512_add_ps(some[v][0], first_of(pairs));
        some[v][1] = _mm512_add_ps(some[v][1], second_of(pairs));
      }
    }
#pragma GCC unroll 8
    for (int v = 0; v < vecs; ++v) {
      all[v][0] = _mm512_add_ps(all[v][0], some[v][0]);
      all[v][1] = _mm512_add_ps(all[v][1], some[v][1]);
    }
  }
  const Vec sign = _mm512_set1_ps(s.sign);
#pragma GCC unroll 8
  for (int v = 0; v < vecs; ++v) {
    const int64_t at = first + v * kPairLanes;
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
      const Vec start = s.base == nullptr ? _mm512_setzero_ps() : _mm512_loadu_ps(s.base + at + half * kLanes);
      all[v][half] = _mm512_fmadd_ps(sign, all[v][half], start);
      if (s.wide != nullptr) _mm512_storeu_ps(s.wide + at + half * kLanes, all[v][half]);
    }
    if (s.out != nullptr) _mm512_storeu_si512(s.out + at, interleave(all[v][0], all[v][1]));
  }
}

}  // namespace

void key_state_bf16(int64_t keys, int64_t dim, const bf16_t* features, const bf16_t* values, bf16_t* h) {
  const int64_t width = whole_lanes(dim);
  const Product p{dim, (keys + 1) / 2, width, features, 1, width, values};
  run(
      p, [](int64_t, int64_t vecs) { return kToState[vecs - 1]; }, h);  // D is a multiple of 8: four rows each time
}

void apply_state_bf16(int64_t rows, int64_t dim, const bf16_t* features, const bf16_t* h, float* out) {
  const Product p{rows, dim / 2, whole_lanes(dim), features, dim / 2, 1, h};
  run(
      p, [](int64_t count, int64_t vecs) { return kToRows[count - 1][vecs - 1]; }, out);
}

void sum_states_bf16(const SumStatesBf16& s) {
  int64_t i = 0;
  for (; i + kVecs * kPairLanes <= s.size; i += kVecs * kPairLanes) sum_vectors<kVecs>(s, i);
  for (; i < s.size; i += kPairLanes) sum_vectors<1>(s, i);
}

void feature_sums_bf16(int64_t rows, int64_t dim, const bf16_t* features, const double* z_rest, const double* z_total,
                       double* rest, double* total) {
  constexpr int64_t kStep = 8;
  for (int64_t r = 0; r < rows; ++r, features += dim) {
    __m512d sum = _mm512_setzero_pd(), all = _mm512_setzero_pd();
    for (int64_t c = 0; c < dim; c += kStep) {
      const __m256i wide =
          _mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(features + c))), 16);
      const __m512d phi = _mm512_cvtps_pd(_mm256_castsi256_ps(wide));
      sum = _mm512_fmadd_pd(phi, _mm512_loadu_pd(z_rest + c), sum);
      all = _mm512_fmadd_pd(phi, _mm512_loadu_pd(z_total + c), all);
    }
    rest[r] = _mm512_reduce_add_pd(sum);
    total[r] = _mm512_reduce_add_pd(all);
  }
}

}  // namespace sla2::kernels::avx512_bf16
