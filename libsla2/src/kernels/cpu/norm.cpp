// SPDX-License-Identifier: Apache-2.0
// AVX2 row norms. Four independent fp32 sums of eight lanes each: 32 partial sums keep the rounding of a mean over
// 1,536 numbers near one ulp. See cpu/elementwise.cpp for why the standard library stays out.
#include "kernels/norm.h"

#include <hwy/highway.h>

namespace sla2::kernels {

namespace {

namespace hn = hwy::HWY_NAMESPACE;
static_assert(HWY_STATIC_TARGET == HWY_AVX2, "this file needs AVX2 flags");
using F = hn::ScalableTag<float>;
using Vec = hn::Vec<F>;
constexpr F kF;
constexpr size_t kLanes = hn::MaxLanes(kF), kSums = 4, kStep = kLanes * kSums;

/// Sum over i of value(x[i]).
template <typename Value>
HWY_INLINE double sum_row(const float* x, size_t width, const Value& value) {
  Vec s0 = hn::Zero(kF), s1 = s0, s2 = s0, s3 = s0;
  size_t i = 0;
  for (; i + kStep <= width; i += kStep) {
    s0 = value(s0, hn::LoadU(kF, x + i));
    s1 = value(s1, hn::LoadU(kF, x + i + kLanes));
    s2 = value(s2, hn::LoadU(kF, x + i + 2 * kLanes));
    s3 = value(s3, hn::LoadU(kF, x + i + 3 * kLanes));
  }
  for (; i + kLanes <= width; i += kLanes) s0 = value(s0, hn::LoadU(kF, x + i));
  HWY_ALIGN float lanes[kLanes];
  hn::Store(hn::Add(hn::Add(s0, s1), hn::Add(s2, s3)), kF, lanes);
  double sum = 0;
  for (size_t lane = 0; lane < kLanes; ++lane) sum += static_cast<double>(lanes[lane]);
  for (; i < width; ++i) sum += static_cast<double>(hn::GetLane(value(hn::Zero(kF), hn::Set(kF, x[i]))));
  return sum;
}

HWY_INLINE double inverse_root(double mean_square, float eps) {
  return 1.0 / __builtin_sqrt(mean_square + static_cast<double>(eps));
}

void layer_norm_row(const float* x, const float* scale, const float* shift, float eps, float* y, size_t width) {
  const double count = static_cast<double>(width);
  const auto mean = static_cast<float>(sum_row(x, width, [](Vec sum, Vec v) { return hn::Add(sum, v); }) / count);
  const Vec center = hn::Set(kF, mean);
  const double squares = sum_row(x, width, [&](Vec sum, Vec v) {
    const Vec d = hn::Sub(v, center);
    return hn::MulAdd(d, d, sum);
  });
  const auto inverse = static_cast<float>(inverse_root(squares / count, eps));
  const Vec factor = hn::Set(kF, inverse), one = hn::Set(kF, 1.0F), zero = hn::Zero(kF);
  size_t i = 0;
  for (; i + kLanes <= width; i += kLanes) {
    const Vec normal = hn::Mul(hn::Sub(hn::LoadU(kF, x + i), center), factor);
    const Vec s = scale != nullptr ? hn::LoadU(kF, scale + i) : one, b = shift != nullptr ? hn::LoadU(kF, shift + i) : zero;
    hn::StoreU(hn::MulAdd(normal, s, b), kF, y + i);
  }
  for (; i < width; ++i) {
    const float normal = (x[i] - mean) * inverse;
    y[i] = __builtin_fmaf(normal, scale != nullptr ? scale[i] : 1.0F, shift != nullptr ? shift[i] : 0.0F);
  }
}

void rms_norm_row(const float* x, const float* weight, float eps, float* y, size_t width) {
  const double squares = sum_row(x, width, [](Vec sum, Vec v) { return hn::MulAdd(v, v, sum); });
  const auto inverse = static_cast<float>(inverse_root(squares / static_cast<double>(width), eps));
  const Vec factor = hn::Set(kF, inverse);
  size_t i = 0;
  for (; i + kLanes <= width; i += kLanes)
    hn::StoreU(hn::Mul(hn::Mul(hn::LoadU(kF, x + i), factor), hn::LoadU(kF, weight + i)), kF, y + i);
  for (; i < width; ++i) y[i] = x[i] * inverse * weight[i];
}

}  // namespace

const NormTable& norm_avx2() {
  static constexpr NormTable kTable{layer_norm_row, rms_norm_row};
  return kTable;
}

}  // namespace sla2::kernels
