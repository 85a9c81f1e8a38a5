// SPDX-License-Identifier: Apache-2.0
// What a transformer does to rows beside products: norms with modulation, rotary embedding, bytes for the next product. A warp
// takes a row and goes over it two or three times (it lies in L1 after the first); statistics are fp32.
#include "kernels/cuda/rows.h"
#include "kernels/cuda/runner_params.h"

namespace sla2::cuda {
namespace {

struct RowPlace {
  int64_t row;
  int32_t lane;
};
SLA2_DEVICE RowPlace row_place() {
  return {static_cast<int64_t>(block_x()) * kRowsPerBlock + thread_index() / 32, static_cast<int32_t>(thread_index() % 32)};
}

/// A row's pairs of channels, those of this lane: body(channel) for channel = 2·lane, 2·lane + 64, …
template <typename Body>
SLA2_DEVICE void for_pairs(int32_t lane, int32_t width, const Body& body) {
  for (int32_t channel = 2 * lane; channel < width; channel += 64) body(channel);
}

/// `value(channel)` of all channels to the row, in the form that the next product takes. Called by a whole warp.
template <typename Value>
SLA2_DEVICE void store_row(const ProductRows& y, const RowPlace& at, int32_t width, const Value& value) {
  const int64_t from = at.row * width;
  if (y.bf16 != nullptr) {
    for_pairs(at.lane, width, [&](int32_t c) {
      const Pair v = value(c);
      *reinterpret_cast<uint32_t*>(y.bf16 + from + c) = pack_bf16(v.x, v.y);
    });
    return;
  }
  float top = 0;
  for_pairs(at.lane, width, [&](int32_t c) {
    const Pair v = value(c);
    if (is_finite(v.x)) top = largest(top, v.x < 0 ? -v.x : v.x);
    if (is_finite(v.y)) top = largest(top, v.y < 0 ? -v.y : v.y);
  });
  top = warp_max(top);
  const float inverse = top < kLeast ? 0.0F : kInt8Steps / top;
  bool finite = true;
  for_pairs(at.lane, width, [&](int32_t c) {
    const Pair v = value(c);
    finite = finite && is_finite(v.x) && is_finite(v.y);
    const int32_t low = int8_steps(v.x, inverse), high = int8_steps(v.y, inverse);
    *reinterpret_cast<uint16_t*>(y.steps + from + c) = static_cast<uint16_t>((low & 0xFF) | (high & 0xFF) << 8);
  });
  const bool all = ballot(finite) == 0xFFFFFFFFU;
  if (at.lane == 0) y.scale[at.row] = !all ? not_a_number() : top < kLeast ? 0.0F : top / kInt8Steps;
}

SLA2_DEVICE Pair two_floats(const float* at) { return {at[0], at[1]}; }
SLA2_DEVICE Pair two_bf16(const uint16_t* at) {
  const uint32_t bits = *reinterpret_cast<const uint32_t*>(at);
  return {from_bf16(bits & 0xFFFFU), bits_to_float(bits & 0xFFFF0000U)};
}

/// Angles of a token: pair j of a head turns with the t axis, then h, then w.
struct Rotation {
  const RmsNormParams& p;
  int32_t t, h, w;
  SLA2_DEVICE Pair turned(Pair v, int32_t channel) const {
    int32_t pair = channel % p.head_dim / 2;
    const RopeTableParams* axis = &p.t;
    int32_t position = t;
    if (pair >= p.t.pairs) {
      pair -= p.t.pairs, axis = &p.h, position = h;
      if (pair >= p.h.pairs) pair -= p.h.pairs, axis = &p.w, position = w;
    }
    const int32_t at = position * axis->pairs + pair;
    const float c = axis->cosine[at], s = axis->sine[at];
    return {v.x * c - v.y * s, v.x * s + v.y * c};
  }
};

}  // namespace

SLA2_KERNEL(sla2_layer_norm, kRowThreads, 1, LayerNormParams) {
  const RowPlace at = row_place();
  if (at.row >= p.rows) return;
  const float* const x = p.x + at.row * p.width;
  float sum = 0;
  for_pairs(at.lane, p.width, [&](int32_t c) { sum += x[c] + x[c + 1]; });
  const float mean = warp_sum(sum) / static_cast<float>(p.width);
  if (p.bad != nullptr && at.lane == 0 && !is_finite(mean)) *p.bad = 1;  // whoever writes writes 1
  if (p.plain != 0) {
    store_row(p.y, at, p.width, [&](int32_t c) { return two_floats(x + c); });
    return;
  }
  float squares = 0;
  for_pairs(at.lane, p.width, [&](int32_t c) {
    const float a = x[c] - mean, b = x[c + 1] - mean;
    squares += a * a + b * b;
  });
  const float factor = inverse_root(warp_sum(squares) / static_cast<float>(p.width) + p.eps);
  store_row(p.y, at, p.width, [&](int32_t c) {
    Pair v{(x[c] - mean) * factor, (x[c + 1] - mean) * factor};
    if (p.scale != nullptr) v = {v.x * p.scale[c], v.y * p.scale[c + 1]};
    if (p.shift != nullptr) v = {v.x + p.shift[c], v.y + p.shift[c + 1]};
    return v;
  });
}

SLA2_KERNEL(sla2_quantise, kRowThreads, 1, QuantiseParams) {
  const RowPlace at = row_place();
  if (at.row >= p.rows) return;
  const uint16_t* const x = p.x + at.row * p.stride_x;
  store_row(p.y, at, p.width, [&](int32_t c) { return two_bf16(x + c); });
}

SLA2_KERNEL(sla2_rms_norm, kRowThreads, 1, RmsNormParams) {
  const RowPlace at = row_place();
  if (at.row >= p.rows) return;
  uint16_t* const x = p.x + at.row * p.stride_x + block_y() * p.part_stride;
  const float* const weight = p.weight[block_y()];
  float squares = 0;
  for_pairs(at.lane, p.width, [&](int32_t c) {
    const Pair v = two_bf16(x + c);
    squares += v.x * v.x + v.y * v.y;
  });
  const float factor = inverse_root(warp_sum(squares) / static_cast<float>(p.width) + p.eps);
  int32_t token = p.first_token + static_cast<int32_t>(at.row);
  if (p.order != nullptr) token = p.order[token];
  const bool rotates = p.t.cosine != nullptr;
  Rotation rotation{p, 0, 0, 0};
  if (rotates) rotation.w = token % p.w.positions, rotation.h = token / p.w.positions % p.h.positions;
  if (rotates) rotation.t = token / (p.w.positions * p.h.positions);
  for_pairs(at.lane, p.width, [&](int32_t c) {
    Pair v = two_bf16(x + c);
    v = {v.x * factor * weight[c], v.y * factor * weight[c + 1]};
    if (rotates) v = rotation.turned(v, c);
    *reinterpret_cast<uint32_t*>(x + c) = pack_bf16(v.x, v.y);
  });
}

SLA2_KERNEL(sla2_modulate, kRowThreads, 1, ModulateParams) {
  const int64_t i = static_cast<int64_t>(block_x()) * kRowThreads + thread_index();
  if (i >= p.count) return;
  const auto vector = static_cast<uint32_t>(i / p.dim % p.vectors);
  const float sum = p.base[i] + p.offset[i % p.period];
  p.out[i] = (p.ones >> vector & 1U) != 0 ? 1.0F + sum : sum;
}

}  // namespace sla2::cuda
