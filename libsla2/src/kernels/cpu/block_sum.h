// SPDX-License-Identifier: Apache-2.0
// Block sums for vectors of N floats, for AVX2 and AVX-512 files only: a chunk of 2·N sums lives in four registers of fp64 while
// the list runs; one or two cache lines per block and chunk.
#pragma once
#include <hwy/highway.h>

#include "kernels/block_sum.h"

namespace sla2::kernels {
namespace {

template <size_t N>
void block_sum_with(int64_t count, const float* blocks, int64_t stride, const int32_t* list, int64_t list_size, double sign,
                    const double* base, double* out) {
  namespace hn = hwy::HWY_NAMESPACE;
  const hn::FixedTag<double, N / 2> tag;
  const hn::FixedTag<float, N / 2> half;
  using Vec = hn::Vec<hn::FixedTag<double, N / 2>>;
  constexpr int64_t kLanes = N / 2, kVectors = 4, kChunk = kLanes * kVectors;
  const Vec factor = hn::Set(tag, sign);
  int64_t i = 0;
  for (; i + kChunk <= count; i += kChunk) {
    Vec sum[kVectors];
#pragma GCC unroll 4
    for (int64_t v = 0; v < kVectors; ++v) sum[v] = hn::Zero(tag);
    for (int64_t j = 0; j < list_size; ++j) {
      const float* const at = blocks + list[j] * stride + i;
#pragma GCC unroll 4
      for (int64_t v = 0; v < kVectors; ++v) sum[v] = hn::Add(sum[v], hn::PromoteTo(tag, hn::LoadU(half, at + v * kLanes)));
    }
#pragma GCC unroll 4
    for (int64_t v = 0; v < kVectors; ++v) {
      const Vec start = base == nullptr ? hn::Zero(tag) : hn::LoadU(tag, base + i + v * kLanes);
      hn::StoreU(hn::MulAdd(factor, sum[v], start), tag, out + i + v * kLanes);  // factor is +-1: the product is exact
    }
  }
  for (; i < count; ++i) {
    double sum = 0;
    for (int64_t j = 0; j < list_size; ++j) sum += static_cast<double>(blocks[list[j] * stride + i]);
    out[i] = (base == nullptr ? 0.0 : base[i]) + sign * sum;
  }
}

}  // namespace
}  // namespace sla2::kernels
