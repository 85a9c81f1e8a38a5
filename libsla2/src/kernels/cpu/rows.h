// SPDX-License-Identifier: Apache-2.0
// The passes over rows (block_gather.h, merge_rows.h, route_scores.h) for vectors of N floats, for AVX2 and AVX-512 files only.
// D is a multiple of 8: a row is whole vectors and at most one of 8 lanes, so that no pass needs a mask.
#pragma once
#include <hwy/cache_control.h>
#include <hwy/highway.h>

#include "kernels/block_gather.h"
#include "kernels/merge_rows.h"
#include "kernels/panel_gemm.h"
#include "kernels/route_scores.h"

namespace sla2::kernels {
namespace {

namespace hn = hwy::HWY_NAMESPACE;
constexpr int64_t kSmall = 8;
template <size_t N>
using Floats = hn::FixedTag<float, N>;

/// each(tag, channel) over a row.
template <size_t N, typename Each>
HWY_INLINE void over_row(int64_t dim, const Each& each) {
  int64_t c = 0;
  for (; c + static_cast<int64_t>(N) <= dim; c += static_cast<int64_t>(N)) each(Floats<N>(), c);
  if (c < dim) each(Floats<kSmall>(), c);
}

template <typename Tag>
HWY_INLINE hn::Vec<Tag> widen(Tag tag, DType dtype, const void* row, int64_t c) {
  const hn::Rebind<uint32_t, Tag> wide;
  const hn::Rebind<uint16_t, Tag> half;
  const hn::Rebind<hwy::float16_t, Tag> f16;
  if (dtype == DType::kF32) return hn::LoadU(tag, static_cast<const float*>(row) + c);
  const auto bits = hn::LoadU(half, static_cast<const uint16_t*>(row) + c);
  if (dtype == DType::kBF16) return hn::BitCast(tag, hn::ShiftLeft<16>(hn::PromoteTo(wide, bits)));
  return hn::PromoteTo(tag, hn::BitCast(f16, bits));
}

template <typename Tag>
HWY_INLINE void store(Tag tag, hn::Vec<Tag> x, DType dtype, void* row, int64_t c) {
  const hn::Rebind<int32_t, Tag> wide;
  const hn::Rebind<uint16_t, Tag> half;
  if (dtype == DType::kF32) {
    hn::StoreU(x, tag, static_cast<float*>(row) + c);
  } else if (dtype == DType::kF16) {
    const hn::Rebind<hwy::float16_t, Tag> f16;
    hn::StoreU(hn::BitCast(half, hn::DemoteTo(f16, x)), half, static_cast<uint16_t*>(row) + c);
  } else {  // nearest even; NaN stays NaN
    const hn::Rebind<uint32_t, Tag> plain;
    const auto bits = hn::BitCast(plain, x);
    const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(plain, 1U));
    const auto rounded = hn::Add(hn::Add(bits, hn::Set(plain, 0x7fffU)), odd);
    const auto quiet = hn::Or(bits, hn::Set(plain, 0x400000U));
    const auto upper = hn::ShiftRight<16>(hn::IfThenElse(hn::RebindMask(plain, hn::IsNaN(x)), quiet, rounded));
    hn::StoreU(hn::DemoteTo(half, hn::BitCast(wide, upper)), half, static_cast<uint16_t*>(row) + c);
  }
}

/// The type is known while rows pass: a branch per row, not per vector.
template <typename Each>
HWY_INLINE void with_dtype(DType dtype, const Each& each) {
  if (dtype == DType::kBF16) {
    each([] { return DType::kBF16; });
  } else if (dtype == DType::kF16) {
    each([] { return DType::kF16; });
  } else {
    each([] { return DType::kF32; });
  }
}

template <size_t N>
void load_rows_with(const RowSource& source, int64_t first, int64_t n, int64_t dim, float scale, float* out) {
  with_dtype(source.dtype, [&](auto dtype) {
    const int64_t step = source.stride * (dtype() == DType::kF32 ? 4 : 2);
    const char* row = static_cast<const char*>(source.data) + first * step;
    for (int64_t t = 0; t < n; ++t, row += step, out += dim)
      over_row<N>(
          dim, [&](auto tag, int64_t c) { hn::StoreU(hn::Mul(widen(tag, dtype(), row, c), hn::Set(tag, scale)), tag, out + c); });
  });
}

template <size_t N>
void shift_rows_with(int64_t n, int64_t dim, const float* shift, float* x) {
  for (int64_t t = 0; t < n; ++t, x += dim)
    over_row<N>(dim,
                [&](auto tag, int64_t c) { hn::StoreU(hn::Sub(hn::LoadU(tag, x + c), hn::LoadU(tag, shift + c)), tag, x + c); });
}

/// `many` vectors of N/2 fp64 sums.
template <size_t N, int many>
HWY_INLINE void mean_columns(const float* rows, int64_t n, int64_t dim, float* out, int64_t out_step) {
  const hn::FixedTag<double, N / 2> tag;
  const hn::FixedTag<float, N / 2> half;
  constexpr int64_t kLanes = N / 2;
  hn::Vec<hn::FixedTag<double, N / 2>> sum[many];
#pragma GCC unroll 8
  for (int v = 0; v < many; ++v) sum[v] = hn::Zero(tag);
  for (int64_t t = 0; t < n; ++t)
#pragma GCC unroll 8
    for (int v = 0; v < many; ++v) sum[v] = hn::Add(sum[v], hn::PromoteTo(tag, hn::LoadU(half, rows + t * dim + v * kLanes)));
  const auto count = hn::Set(tag, static_cast<double>(n));
#pragma GCC unroll 8
  for (int v = 0; v < many; ++v) {
    float mean[kLanes];
    hn::StoreU(hn::DemoteTo(half, hn::Div(sum[v], count)), half, mean);
    for (int64_t i = 0; i < kLanes; ++i) out[(v * kLanes + i) * out_step] = mean[i];
  }
}

template <size_t N>
void mean_rows_with(const float* rows, int64_t n, int64_t dim, float* out, int64_t out_step) {
  constexpr int kMany = 8;
  constexpr int64_t kStep = kMany * static_cast<int64_t>(N) / 2;
  constexpr int kFew = 16 / static_cast<int>(N);  // eight channels
  int64_t c = 0;
  for (; c + kStep <= dim; c += kStep) mean_columns<N, kMany>(rows + c, n, dim, out + c * out_step, out_step);
  for (; c < dim; c += kSmall) mean_columns<N, kFew>(rows + c, n, dim, out + c * out_step, out_step);
}

template <size_t N>
void merge_rows_with(const MergeInput& input, int64_t rows, int64_t dim, void* out, DType dtype, int64_t out_row) {
  static_assert(kPanel % static_cast<int64_t>(N) == 0, "a vector lies in one panel");
  const int64_t panel_step = input.row == 0 ? rows * kPanel : kPanel;
  with_dtype(dtype, [&](auto type) {
    for (int64_t r = 0; r < rows; ++r) {
      const float ws = input.w_sparse[r], wl = input.linear == nullptr ? 0.0F : input.w_linear[r];
      const int64_t first = r * (input.row == 0 ? kPanel : input.row);
      char* const line = static_cast<char*>(out) + r * out_row * (type() == DType::kF32 ? 4 : 2);
      over_row<N>(dim, [&](auto tag, int64_t c) {
        const int64_t at = first + c / kPanel * panel_step + c % kPanel;
        auto x = hn::Zero(tag);
        if (ws != 0.0F) x = hn::Mul(hn::Set(tag, ws), hn::LoadU(tag, input.sparse + at));
        if (input.linear != nullptr && wl != 0.0F) x = hn::MulAdd(hn::Set(tag, wl), hn::LoadU(tag, input.linear + at), x);
        store(tag, x, type(), line, c);
      });
    }
  });
}

/// `many` vectors of N/2 key blocks.
template <size_t N, int many>
HWY_INLINE void score_blocks(int64_t dim, int64_t key_row, const float* q, const float* keys, double scale, double* scores) {
  const hn::FixedTag<double, N / 2> tag;
  const hn::FixedTag<float, N / 2> half;
  constexpr int64_t kLanes = N / 2;
  hn::Vec<hn::FixedTag<double, N / 2>> sum[many];
#pragma GCC unroll 8
  for (int v = 0; v < many; ++v) sum[v] = hn::Zero(tag);
  for (int64_t c = 0; c < dim; ++c, keys += key_row) {
    const auto x = hn::Set(tag, static_cast<double>(q[c]));
    constexpr int64_t kAhead = 12;  // rows: they are too far apart for the hardware to see a stream
#pragma GCC unroll 8
    for (int v = 0; v < many; v += 2) hwy::Prefetch(keys + kAhead * key_row + v * kLanes);
#pragma GCC unroll 8
    for (int v = 0; v < many; ++v) sum[v] = hn::MulAdd(x, hn::PromoteTo(tag, hn::LoadU(half, keys + v * kLanes)), sum[v]);
  }
#pragma GCC unroll 8
  for (int v = 0; v < many; ++v) hn::StoreU(hn::Mul(hn::Set(tag, scale), sum[v]), tag, scores + v * kLanes);
}

template <size_t N>
void route_scores_with(int64_t dim, int64_t key_row, const float* q, const float* keys, double scale, double* scores) {
  constexpr int kMany = 8, kFew = 2 * static_cast<int>(kRouteLanes) / static_cast<int>(N);
  constexpr int64_t kStep = kMany * static_cast<int64_t>(N) / 2;
  int64_t j = 0;
  for (; j + kStep <= key_row; j += kStep) score_blocks<N, kMany>(dim, key_row, q, keys + j, scale, scores + j);
  for (; j < key_row; j += kRouteLanes) score_blocks<N, kFew>(dim, key_row, q, keys + j, scale, scores + j);
}

}  // namespace

/// The ops of one instruction set, in a file compiled for it.
#define SLA2_ROW_OPS(space, lanes)                                                                                    \
  namespace space {                                                                                                   \
  void load_rows(const RowSource& source, int64_t first, int64_t n, int64_t dim, float scale, float* out) {           \
    load_rows_with<lanes>(source, first, n, dim, scale, out);                                                         \
  }                                                                                                                   \
  void shift_rows(int64_t n, int64_t dim, const float* shift, float* x) { shift_rows_with<lanes>(n, dim, shift, x); } \
  void mean_rows(const float* rows, int64_t n, int64_t dim, float* out, int64_t out_step) {                           \
    mean_rows_with<lanes>(rows, n, dim, out, out_step);                                                               \
  }                                                                                                                   \
  void merge_rows(const MergeInput& input, int64_t rows, int64_t dim, void* out, DType dtype, int64_t out_row) {      \
    merge_rows_with<lanes>(input, rows, dim, out, dtype, out_row);                                                    \
  }                                                                                                                   \
  void route_scores(int64_t dim, int64_t key_row, const float* q, const float* keys, double scale, double* scores) {  \
    route_scores_with<lanes>(dim, key_row, q, keys, scale, scores);                                                   \
  }                                                                                                                   \
  }

}  // namespace sla2::kernels
