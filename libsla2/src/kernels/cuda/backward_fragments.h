// SPDX-License-Identifier: Apache-2.0
// Operands of the backward's products: fragments straight out of tile images in global memory, rows of the caller's tensors as
// accumulators hold them, and products of 16 rows with 32 columns.
#pragma once
#include "kernels/cuda/backward_params.h"
#include "kernels/cuda/fragments.h"
#include "kernels/cuda/queries.h"
#include "kernels/cuda/rows.h"

namespace sla2::cuda {

inline constexpr int kHalfRows = 32;  ///< rows of queries that come together: half a tile

/// 16 rows of a tile image as left-hand fragments over all channels. Read once per block of threads, so not through shared
/// memory.
template <int kWidth>
struct LeftRows {
  static constexpr uint32_t kRowBytes = kWidth * 2;
  uint32_t a[kWidth / 16][4];

  /// `tiles`: the head's first tile; `row`: a multiple of 16, counted from there.
  SLA2_DEVICE void load(const unsigned char* tiles, int64_t row) {
    const uint32_t g = thread_index() % 32 / 4, t = thread_index() % 4;
    const unsigned char* const tile = tiles + row / kTileKeys * kTileKeys * kRowBytes;
    const auto first = static_cast<uint32_t>(row % kTileKeys);
#pragma unroll
    for (uint32_t step = 0; step < kWidth / 16; ++step)
#pragma unroll
      for (uint32_t i = 0; i < 4; ++i)
        a[step][i] = *reinterpret_cast<const uint32_t*>(
            tile + image_offset(kTileKeys, kRowBytes, first + g + i % 2 * 8, step * 32 + i / 2 * 16 + 4 * t));
  }
};

/// 16 rows · 32 columns of a product, as accumulators.
struct Part {
  float x[kHalfRows / 8][4];
  SLA2_DEVICE void clear() {
#pragma unroll
    for (auto& four : x)
#pragma unroll
      for (float& one : four) one = 0;
  }
};

/// part = rows · columnsᵀ, columns first … first + 31 of a tile of kRows rows in shared memory.
template <int kRows, int kWidth>
SLA2_DEVICE void multiply_rows(const uint32_t (&a)[kWidth / 16][4], uint32_t tile, uint32_t first, Part& part) {
  part.clear();
#pragma unroll
  for (uint32_t step = 0; step < kWidth / 16; ++step)
#pragma unroll
    for (uint32_t n = 0; n < 2; ++n) {
      uint32_t b[4];
      load_columns<kRows, kWidth * 2>(tile, first + n * 16, step * 2, b);
      multiply_bf16(part.x[2 * n], a[step], b[0], b[1]);
      multiply_bf16(part.x[2 * n + 1], a[step], b[2], b[3]);
    }
}

/// sum [16, W] += part · rows first … first + 31 of a tile.
template <int kRows, int kWidth>
SLA2_DEVICE void add_product(const Part& part, uint32_t tile, uint32_t first, float (&sum)[kWidth / 8][4]) {
#pragma unroll
  for (uint32_t step = 0; step < kHalfRows / 16; ++step) {
    uint32_t a[4];
#pragma unroll
    for (uint32_t i = 0; i < 4; ++i) {
      const auto& four = part.x[2 * step + i / 2];
      a[i] = pack_bf16(four[i % 2 * 2], four[i % 2 * 2 + 1]);
    }
#pragma unroll
    for (uint32_t n = 0; n < kWidth / 16; ++n) {
      uint32_t b[4];
      load_columns_transposed<kRows, kWidth * 2>(tile, first + step * 16, n * 2, b);
      multiply_bf16(sum[2 * n], a, b[0], b[1]);
      multiply_bf16(sum[2 * n + 1], a, b[2], b[3]);
    }
  }
}

/// Two rows of a tensor per lane, at the places of an accumulator: row g in 0 and 1, row g + 8 in 2 and 3. `at`: where the rows
/// begin, below 0: no row, zeros.
template <Store kWay, int kFragments>
SLA2_DEVICE void load_pairs(const Rows& rows, const int64_t (&at)[2], int32_t dim, float (&x)[kFragments][4]) {
  const uint32_t t = thread_index() % 4;
#pragma unroll
  for (int i = 0; i < 2; ++i)
#pragma unroll
    for (int n = 0; n < kFragments; ++n) {
      Pair pair{0, 0};
      if (at[i] >= 0 && n * 8 < dim) {
        const int64_t from = at[i] + n * 8 + 2 * t;
        if constexpr (kWay == Store::kF32) {
          pair = {static_cast<const float*>(rows.data)[from], static_cast<const float*>(rows.data)[from + 1]};
        } else {
          const uint16_t* const data = static_cast<const uint16_t*>(rows.data) + from;
          uint32_t bits = 0;
          if constexpr (kWay == Store::kBf16Pairs || kWay == Store::kF16Pairs)
            bits = *reinterpret_cast<const uint32_t*>(data);
          else
            bits = data[0] | static_cast<uint32_t>(data[1]) << 16U;
          if constexpr (kWay == Store::kBf16Pairs || kWay == Store::kBf16)
            pair = {from_bf16(bits & 0xFFFFU), bits_to_float(bits & 0xFFFF0000U)};
          else
            pair = {from_f16(static_cast<uint16_t>(bits)), from_f16(static_cast<uint16_t>(bits >> 16U))};
        }
      }
      x[n][2 * i] = pair.x, x[n][2 * i + 1] = pair.y;
    }
}
template <int kFragments>
SLA2_DEVICE void load_pairs(const Rows& rows, const int64_t (&at)[2], int32_t dim, float (&x)[kFragments][4]) {
  switch (store_way(rows)) {
    case Store::kF32: load_pairs<Store::kF32>(rows, at, dim, x); break;
    case Store::kBf16Pairs: load_pairs<Store::kBf16Pairs>(rows, at, dim, x); break;
    case Store::kF16Pairs: load_pairs<Store::kF16Pairs>(rows, at, dim, x); break;
    case Store::kBf16: load_pairs<Store::kBf16>(rows, at, dim, x); break;
    default: load_pairs<Store::kF16>(rows, at, dim, x);
  }
}

/// φ of two rows in place: softmax over the channels below `dim`, zeros beyond and where there is no row.
template <int kFragments>
SLA2_DEVICE void make_features(const int64_t (&at)[2], int32_t dim, float (&x)[kFragments][4]) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    float top = -infinity(), sum = 0;
#pragma unroll
    for (int n = 0; n < kFragments; ++n)
      if (n * 8 < dim) top = largest(top, largest(x[n][2 * i], x[n][2 * i + 1]));
    top = quad_max(top);
#pragma unroll
    for (int n = 0; n < kFragments; ++n)
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        float& e = x[n][2 * i + j];
        e = at[i] >= 0 && n * 8 < dim ? exp2_fast((e - top) * kLog2E) : 0.0F;
        sum += e;
      }
    sum = quad_sum(sum);
    const float scale = at[i] >= 0 ? 1 / sum : 0.0F;
#pragma unroll
    for (int n = 0; n < kFragments; ++n) x[n][2 * i] *= scale, x[n][2 * i + 1] *= scale;
  }
}

/// Through φ: gradient becomes φ ⊙ (gradient - ⟨φ, gradient⟩), row by row.
template <int kFragments>
SLA2_DEVICE void through_features(const float (&phi)[kFragments][4], float (&gradient)[kFragments][4]) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    float dot = 0;
#pragma unroll
    for (int n = 0; n < kFragments; ++n) dot += phi[n][2 * i] * gradient[n][2 * i] + phi[n][2 * i + 1] * gradient[n][2 * i + 1];
    dot = quad_sum(dot);
#pragma unroll
    for (int n = 0; n < kFragments; ++n)
#pragma unroll
      for (int j = 2 * i; j < 2 * i + 2; ++j) gradient[n][j] = phi[n][j] * (gradient[n][j] - dot);
  }
}

/// Rows g and g + 8 of [16, W] from or to a plain array of rows of W, `rows` at the warp's first.
template <int kWidth>
SLA2_DEVICE void read_rows(const float* rows, float (&x)[kWidth / 8][4]) {
  const uint32_t g = thread_index() % 32 / 4, t = thread_index() % 4;
#pragma unroll
  for (uint32_t n = 0; n < kWidth / 8; ++n)
#pragma unroll
    for (uint32_t i = 0; i < 4; ++i) x[n][i] = rows == nullptr ? 0.0F : rows[(g + i / 2 * 8) * kWidth + n * 8 + 2 * t + i % 2];
}
template <int kWidth>
SLA2_DEVICE void write_rows(const float (&x)[kWidth / 8][4], float* rows) {
  const uint32_t g = thread_index() % 32 / 4, t = thread_index() % 4;
#pragma unroll
  for (uint32_t n = 0; n < kWidth / 8; ++n)
#pragma unroll
    for (uint32_t i = 0; i < 4; ++i) rows[(g + i / 2 * 8) * kWidth + n * 8 + 2 * t + i % 2] = x[n][i];
}

/// query_rows of a block of threads that may have more warps than the query block has rows for.
SLA2_DEVICE QueryRows own_rows(const AttendParams& p) {
  QueryRows rows = query_rows(p);
  if (kWarpRows * static_cast<int32_t>(rows.warp) >= p.block_q) rows.inside = 0;
  return rows;
}

}  // namespace sla2::cuda
