// SPDX-License-Identifier: Apache-2.0
// 2^x for x <= 0 on vectors of any width, for AVX2 and AVX-512 files only. Measured against fp64 over [-126, 0]: see
// tests/unit/attention. x below -127 and -inf give exactly 0 (results under 2^-126 are flushed); NaN stays NaN.
#pragma once
#include <hwy/highway.h>

namespace sla2::kernels {
namespace {

namespace hn = hwy::HWY_NAMESPACE;

/// 2^x = 2^n · 2^f, n = round(x), |f| <= 1/2; 2^f = 1 + f·p(f), p minimax of degree 5 (relative error 2.0e-9, so the
/// rounding of the last steps decides: about 1 ulp).
template <typename Vec>
HWY_INLINE Vec exp2_nonpositive(Vec x) {
  const hn::DFromV<Vec> tag;
  const hn::RebindToSigned<hn::DFromV<Vec>> int_tag;
  constexpr float kFlush = -127.0F;  // exponent field 0: the factor becomes +0
  // The order of operands matters: MAXPS returns the second one when either is NaN.
  x = hn::Max(hn::Set(tag, kFlush), x);
  const Vec whole = hn::Round(x);
  const Vec f = hn::Sub(x, whole);
  Vec p = hn::Set(tag, 0x1.41fbbcp-13F);
  p = hn::MulAdd(p, f, hn::Set(tag, 0x1.5f3e54p-10F));
  p = hn::MulAdd(p, f, hn::Set(tag, 0x1.3b2d4cp-7F));
  p = hn::MulAdd(p, f, hn::Set(tag, 0x1.c6aee8p-5F));
  p = hn::MulAdd(p, f, hn::Set(tag, 0x1.ebfbdcp-3F));
  p = hn::MulAdd(p, f, hn::Set(tag, 0x1.62e430p-1F));
  p = hn::MulAdd(p, f, hn::Set(tag, 1.0F));
  constexpr int kBias = 127, kMantissaBits = 23;
  const auto exponent = hn::ShiftLeft<kMantissaBits>(hn::Add(hn::ConvertTo(int_tag, whole), hn::Set(int_tag, kBias)));
  return hn::Mul(p, hn::BitCast(tag, exponent));
}

}  // namespace
}  // namespace sla2::kernels
