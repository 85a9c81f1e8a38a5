// SPDX-License-Identifier: Apache-2.0
// AVX2 rotation: cosines doubled to (c, c), sines to (-s, s) once per token, then y = x·C + swap(x)·S for every head.
// See cpu/elementwise.cpp for why the standard library stays out.
#include "kernels/rope.h"

#include <hwy/highway.h>

namespace sla2::kernels {

namespace {

namespace hn = hwy::HWY_NAMESPACE;
static_assert(HWY_STATIC_TARGET == HWY_AVX2, "this file needs AVX2 flags");
using F = hn::ScalableTag<float>;
using Vec = hn::Vec<F>;
constexpr F kF;
constexpr size_t kLanes = hn::MaxLanes(kF), kMaxDim = 512;

void rotate_row(float* x, const float* cosine, const float* sine, size_t heads, size_t pairs) {
  HWY_ALIGN float c[kMaxDim], s[kMaxDim];
  const size_t dim = 2 * pairs;
  for (size_t j = 0; j < pairs; ++j) {
    c[2 * j] = c[2 * j + 1] = cosine[j];
    s[2 * j] = -sine[j];
    s[2 * j + 1] = sine[j];
  }
  for (size_t head = 0; head < heads; ++head) {
    float* run = x + head * dim;
    size_t i = 0;
    for (; i + kLanes <= dim; i += kLanes) {
      const Vec v = hn::LoadU(kF, run + i);
      hn::StoreU(hn::MulAdd(v, hn::Load(kF, c + i), hn::Mul(hn::Shuffle2301(v), hn::Load(kF, s + i))), kF, run + i);
    }
    for (; i < dim; i += 2) {
      const float a = run[i], b = run[i + 1];
      run[i] = __builtin_fmaf(a, c[i], b * s[i]);
      run[i + 1] = __builtin_fmaf(b, c[i + 1], a * s[i + 1]);
    }
  }
}

}  // namespace

const RopeTable& rope_avx2() {
  static constexpr RopeTable kTable{rotate_row};
  return kTable;
}

}  // namespace sla2::kernels
