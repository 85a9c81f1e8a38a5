// SPDX-License-Identifier: Apache-2.0
// AVX2 rows of bytes (Highway, static dispatch). Compiled with AVX2 flags: nothing here may use inline functions of the
// standard library, whose AVX2 copies could end up in code that runs on every CPU.
// 512-bit vectors were not worth a second version: these passes wait for memory.
#include "kernels/byte_rows.h"

#include <hwy/highway.h>

namespace sla2::kernels {

namespace {

namespace hn = hwy::HWY_NAMESPACE;
static_assert(HWY_STATIC_TARGET == HWY_AVX2, "this file needs AVX2 flags");

using F = hn::ScalableTag<float>;
using I = hn::RebindToSigned<F>;
using U = hn::RebindToUnsigned<F>;
constexpr F kF;
constexpr I kI;
constexpr U kU;
constexpr size_t kLanes = hn::MaxLanes(kF);
constexpr size_t kTogether = 4;  // vectors a turn: enough chains to hide the latency of a maximum
constexpr size_t kStride = kTogether * kLanes;
using Vec = hn::Vec<F>;
using VecI = hn::Vec<I>;
using VecU = hn::Vec<U>;

constexpr uint32_t kMagnitude = 0x7fffffff, kInfinity = 0x7f800000;

/// The rest of a run, padded with zeros.
struct Padded {
  HWY_ALIGN float values[kStride] = {};
  HWY_INLINE Padded(const float* source, size_t count) { __builtin_memcpy(values, source, count * sizeof(float)); }
};

struct Extremes {
  Vec low = hn::Zero(kF), high = hn::Zero(kF);
  VecU most = hn::Zero(kU);  // of the magnitudes as integers: there infinity is above all numbers, and NaN above infinity
  HWY_INLINE void take(Vec v) {
    low = hn::Min(low, v);
    high = hn::Max(high, v);
    most = hn::Max(most, hn::And(hn::BitCast(kU, v), hn::Set(kU, kMagnitude)));
  }
  HWY_INLINE void take(const Extremes& other) {
    low = hn::Min(low, other.low);
    high = hn::Max(high, other.high);
    most = hn::Max(most, other.most);
  }
};

RowRange range(const float* x, size_t count) {
  Extremes a, b, c, d;
  const auto turn = [&](const float* at) HWY_ATTR {
    a.take(hn::LoadU(kF, at));
    b.take(hn::LoadU(kF, at + kLanes));
    c.take(hn::LoadU(kF, at + 2 * kLanes));
    d.take(hn::LoadU(kF, at + 3 * kLanes));
  };
  size_t i = 0;
  for (; i + kStride <= count; i += kStride) turn(x + i);
  if (i < count) turn(Padded(x + i, count - i).values);
  a.take(b);
  c.take(d);
  a.take(c);
  return {hn::GetLane(hn::MinOfLanes(kF, a.low)), hn::GetLane(hn::MaxOfLanes(kF, a.high)),
          hn::GetLane(hn::MaxOfLanes(kU, a.most)) < kInfinity};
}

void encode(const float* x, size_t count, float inverse, int32_t zero, int32_t lowest, int32_t highest, uint8_t* q) {
  const Vec scale = hn::Set(kF, inverse);
  const VecI offset = hn::Set(kI, zero), least = hn::Set(kI, lowest), most = hn::Set(kI, highest), byte = hn::Set(kI, 0xff);
  const hn::Rebind<uint8_t, F> bytes;
  const auto one = [&](const float* at, uint8_t* to) HWY_ATTR {
    const VecI whole = hn::Add(hn::NearestInt(hn::Mul(hn::LoadU(kF, at), scale)), offset);
    // Limited first, so the lowest byte is the number; masked, so that narrowing does not take it for out of range.
    const VecI limited = hn::And(hn::Min(hn::Max(whole, least), most), byte);
    hn::StoreU(hn::DemoteTo(bytes, limited), bytes, to);
  };
  size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) one(x + i, q + i);
  if (i == count) return;
  HWY_ALIGN uint8_t tail[kLanes];
  one(Padded(x + i, count - i).values, tail);
  __builtin_memcpy(q + i, tail, count - i);
}

void restore(const int32_t* sums, size_t count, float scale, int32_t zero, const float* column_scales, const int32_t* column_sums,
             float* y) {
  const Vec row = hn::Set(kF, scale);
  const VecI offset = hn::Set(kI, zero);
  const auto one = [&](VecI sum, VecI column_sum, Vec column_scale) HWY_ATTR {
    return hn::Mul(hn::ConvertTo(kF, hn::Sub(sum, hn::Mul(offset, column_sum))), hn::Mul(row, column_scale));
  };
  size_t j = 0;
  for (; j + kLanes <= count; j += kLanes)
    hn::StoreU(one(hn::LoadU(kI, sums + j), hn::LoadU(kI, column_sums + j), hn::LoadU(kF, column_scales + j)), kF, y + j);
  const size_t rest = count - j;
  if (rest == 0) return;
  HWY_ALIGN int32_t sum[kLanes] = {}, column_sum[kLanes] = {};
  HWY_ALIGN float value[kLanes];
  __builtin_memcpy(sum, sums + j, rest * sizeof(int32_t));
  __builtin_memcpy(column_sum, column_sums + j, rest * sizeof(int32_t));
  const Padded column_scale(column_scales + j, rest);
  hn::Store(one(hn::Load(kI, sum), hn::Load(kI, column_sum), hn::Load(kF, column_scale.values)), kF, value);
  __builtin_memcpy(y + j, value, rest * sizeof(float));
}

}  // namespace

const ByteRowsTable& byte_rows_avx2() {
  static constexpr ByteRowsTable kTable{range, encode, restore};
  return kTable;
}

}  // namespace sla2::kernels
