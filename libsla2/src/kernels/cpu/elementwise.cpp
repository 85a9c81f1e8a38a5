// SPDX-License-Identifier: Apache-2.0
// AVX2 elementwise kernels (Highway, static dispatch). Compiled with AVX2 flags: nothing here may use inline functions
// of the standard library, whose AVX2 copies could end up in code that runs on every CPU.
#include "kernels/elementwise.h"

#include <hwy/contrib/math/math-inl.h>
#include <hwy/highway.h>

#include "kernels/cpu/exp2.h"

namespace sla2::kernels {

namespace {

namespace hn = hwy::HWY_NAMESPACE;
static_assert(HWY_STATIC_TARGET == HWY_AVX2, "this file needs AVX2 flags");

using F = hn::ScalableTag<float>;
using I = hn::RebindToSigned<F>;
using U = hn::RebindToUnsigned<F>;
using H = hn::Rebind<hwy::float16_t, F>;
using B = hn::Rebind<uint16_t, F>;
constexpr F kF;
constexpr U kU;
constexpr size_t kLanes = hn::MaxLanes(kF);
using Vec = hn::Vec<F>;
using VecU = hn::Vec<U>;

constexpr float kSqrt2OverPi = 0.7978845608028654F, kGeluCubic = 0.044715F;
constexpr float kMaxExponent = 88.0F;  // exp stays finite below; beyond, v/(1+exp) is 0 to fp32 already
constexpr uint32_t kExponentMask = 0x7f800000;

HWY_INLINE Vec silu(Vec v) {
  const Vec e = hn::Exp(kF, hn::Min(hn::Neg(v), hn::Set(kF, kMaxExponent)));
  return hn::Div(v, hn::Add(e, hn::Set(kF, 1.0F)));
}
/// (1 + tanh u)/2 = 1/(1 + exp(-2u)), so v / (1 + 2^x) with x = -2u·log2(e). The slowest of these passes, so its exponential
/// is the short one. That one's exponent field holds up to 2^127; MINPS returns its second operand when either is NaN.
HWY_INLINE Vec gelu_tanh(Vec v) {
  constexpr float kLog2E = 1.44269504F, kLinear = -2.0F * kSqrt2OverPi * kLog2E, kMost = 126.0F;
  const Vec x = hn::Mul(v, hn::MulAdd(hn::Mul(v, v), hn::Set(kF, kLinear * kGeluCubic), hn::Set(kF, kLinear)));
  return hn::Div(v, hn::Add(exp2_nonpositive(hn::Min(hn::Set(kF, kMost), x)), hn::Set(kF, 1.0F)));
}
HWY_INLINE VecU round_bits(Vec v) {
  const VecU bits = hn::BitCast(kU, v);
  const VecU odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(kU, 1));
  const VecU rounded = hn::And(hn::Add(bits, hn::Add(odd, hn::Set(kU, 0x7fff))), hn::Set(kU, 0xffff0000));
  const VecU quiet = hn::And(hn::Or(bits, hn::Set(kU, 0x00400000)), hn::Set(kU, 0xffff0000));
  return hn::IfThenElse(hn::RebindMask(kU, hn::IsNaN(v)), quiet, rounded);
}

/// The rest of a run, padded with zeros to one vector.
struct Padded {
  HWY_ALIGN float values[kLanes] = {};
  HWY_INLINE Padded(const float* source, size_t count) { __builtin_memcpy(values, source, count * sizeof(float)); }
  HWY_INLINE const float* data() const { return values; }
};

/// y[i] = function(operands[i]...): whole vectors, then the tail padded, so that it is the same arithmetic.
template <typename Function, typename... Operands>
HWY_INLINE void map(float* y, size_t count, const Function& function, const Operands*... operands) {
  size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) hn::StoreU(function(hn::LoadU(kF, operands + i)...), kF, y + i);
  const size_t rest = count - i;
  if (rest == 0) return;
  HWY_ALIGN float tail[kLanes];
  hn::Store(function(hn::Load(kF, Padded(operands + i, rest).data())...), kF, tail);
  __builtin_memcpy(y + i, tail, rest * sizeof(float));
}

void widen_bf16(const bf16_t* source, float* target, size_t count) {
  size_t i = 0;
  for (; i + kLanes <= count; i += kLanes)
    hn::StoreU(hn::BitCast(kF, hn::ShiftLeft<16>(hn::PromoteTo(kU, hn::LoadU(B(), source + i)))), kF, target + i);
  for (; i < count; ++i) {
    const uint32_t bits = static_cast<uint32_t>(source[i]) << 16;
    __builtin_memcpy(target + i, &bits, sizeof(bits));
  }
}
void widen_f16(const uint16_t* source, float* target, size_t count) {
  const auto* halves = reinterpret_cast<const hwy::float16_t*>(source);
  size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) hn::StoreU(hn::PromoteTo(kF, hn::LoadU(H(), halves + i)), kF, target + i);
  if (i == count) return;
  HWY_ALIGN uint16_t bits[kLanes] = {};
  HWY_ALIGN float wide[kLanes];
  for (size_t lane = 0; lane < count - i; ++lane) bits[lane] = source[i + lane];
  hn::Store(hn::PromoteTo(kF, hn::Load(H(), reinterpret_cast<const hwy::float16_t*>(bits))), kF, wide);
  for (size_t lane = 0; lane < count - i; ++lane) target[i + lane] = wide[lane];
}
void narrow_bf16(const float* source, bf16_t* target, size_t count) {
  HWY_ALIGN uint32_t bits[kLanes];
  HWY_ALIGN float padded[kLanes] = {};
  size_t i = 0;
  for (; i + kLanes <= count; i += kLanes)
    hn::StoreU(hn::DemoteTo(B(), hn::BitCast(I(), hn::ShiftRight<16>(round_bits(hn::LoadU(kF, source + i))))), B(), target + i);
  for (size_t lane = 0; lane < count - i; ++lane) padded[lane] = source[i + lane];
  hn::Store(round_bits(hn::Load(kF, padded)), kU, bits);
  for (size_t lane = 0; lane < count - i; ++lane) target[i + lane] = static_cast<bf16_t>(bits[lane] >> 16);
}
void round_to_bf16(const float* source, float* target, size_t count) {
  map(
      target, count, [](Vec v) { return hn::BitCast(kF, round_bits(v)); }, source);
}
void add_bias(const float* x, const float* bias, float* y, size_t count) {
  map(
      y, count, [](Vec v, Vec b) { return hn::Add(v, b); }, x, bias);
}
void bias_gelu_tanh(const float* x, const float* bias, float* y, size_t count) {
  map(
      y, count, [](Vec v, Vec b) { return gelu_tanh(hn::Add(v, b)); }, x, bias);
}
void bias_silu(const float* x, const float* bias, float* y, size_t count) {
  map(
      y, count, [](Vec v, Vec b) { return silu(hn::Add(v, b)); }, x, bias);
}
void add_gated(const float* y, const float* bias, const float* gate, float* x, size_t count) {
  map(
      x, count, [](Vec v, Vec add, Vec b, Vec g) { return hn::MulAdd(g, hn::Add(add, b), v); }, x, y, bias, gate);
}
bool all_finite(const float* values, size_t count) {
  const VecU mask = hn::Set(kU, kExponentMask);
  VecU bad = hn::Zero(kU);
  size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    const VecU bits = hn::BitCast(kU, hn::LoadU(kF, values + i));
    bad = hn::Or(bad, hn::VecFromMask(kU, hn::Eq(hn::And(bits, mask), mask)));
  }
  bool finite = hn::AllFalse(kU, hn::Ne(bad, hn::Zero(kU)));
  for (; i < count; ++i) {
    uint32_t bits;
    __builtin_memcpy(&bits, values + i, sizeof(bits));
    finite = finite && (bits & kExponentMask) != kExponentMask;
  }
  return finite;
}

}  // namespace

const ElementwiseTable& elementwise_avx2() {
  static constexpr ElementwiseTable kTable{widen_bf16,     widen_f16, narrow_bf16, round_to_bf16, add_bias,
                                           bias_gelu_tanh, bias_silu, add_gated,   all_finite};
  return kTable;
}

}  // namespace sla2::kernels
