// SPDX-License-Identifier: Apache-2.0
// Feature map for vectors of N floats, for AVX2 and AVX-512 files only. D is a multiple of 8: in AVX-512 the last vector of a row
// may be half full; what is past the end is -inf, so its 2^x is 0.
#pragma once
#include "kernels/cpu/exp2.h"
#include "kernels/feature_map.h"

namespace sla2::kernels {
namespace {

template <size_t N>
void feature_map_with(int64_t rows, int64_t dim, float* x) {
  const hn::FixedTag<float, N> tag;
  constexpr int64_t kLanes = static_cast<int64_t>(N);
  const auto log2e = hn::Set(tag, 0x1.715476p+0F), none = hn::Set(tag, -__builtin_inff());
  const int64_t whole = dim / kLanes * kLanes;
  const auto rest = hn::FirstN(tag, static_cast<size_t>(dim - whole));
  for (int64_t r = 0; r < rows; ++r, x += dim) {
    const auto last = whole == dim ? none : hn::IfThenElse(rest, hn::MaskedLoad(rest, tag, x + whole), none);
    auto top = last;
    for (int64_t c = 0; c < whole; c += kLanes) top = hn::Max(hn::LoadU(tag, x + c), top);
    top = hn::MaxOfLanes(tag, top);
    const auto weight = [&](auto value) { return exp2_nonpositive(hn::Mul(hn::Sub(value, top), log2e)); };
    const auto last_weight = whole == dim ? hn::Zero(tag) : weight(last);
    auto sum = last_weight;
    for (int64_t c = 0; c < whole; c += kLanes) {
      const auto e = weight(hn::LoadU(tag, x + c));
      hn::StoreU(e, tag, x + c);
      sum = hn::Add(sum, e);
    }
    const auto scale = hn::Div(hn::Set(tag, 1.0F), hn::SumOfLanes(tag, sum));
    for (int64_t c = 0; c < whole; c += kLanes) hn::StoreU(hn::Mul(hn::LoadU(tag, x + c), scale), tag, x + c);
    if (whole < dim) hn::BlendedStore(hn::Mul(last_weight, scale), rest, tag, x + whole);
  }
}

}  // namespace
}  // namespace sla2::kernels
