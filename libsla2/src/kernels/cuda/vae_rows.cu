// SPDX-License-Identifier: Apache-2.0
// What the VAE does to pixels beside convolutions: a norm over channels on the way into the next one, softmax of the middle
// attention's scores, and pictures out. A warp takes a row and goes over it two or three times; sums are fp32.
#include "kernels/cuda/product_step.h"
#include "kernels/cuda/rows.h"
#include "kernels/cuda/vae_params.h"

namespace sla2::cuda {
namespace {

SLA2_DEVICE int64_t warp_row() { return static_cast<int64_t>(block_x()) * kRowsPerBlock + thread_index() / 32; }
SLA2_DEVICE int32_t lane_of() { return static_cast<int32_t>(thread_index() % 32); }

SLA2_DEVICE TwoFloats two_at(const PixelNormParams& p, int64_t at) {
  if (p.element == kElementF32) return *reinterpret_cast<const TwoFloats*>(static_cast<const float*>(p.x) + at);
  const uint32_t bits = *reinterpret_cast<const uint32_t*>(static_cast<const uint16_t*>(p.x) + at);
  return {from_bf16(bits & 0xFFFFU), bits_to_float(bits & 0xFFFF0000U)};
}

}  // namespace

SLA2_KERNEL(sla2_pixel_norm, kRowThreads, 1, PixelNormParams) {
  const int64_t pixel = warp_row(), from = pixel * p.width;
  if (pixel >= p.pixels) return;
  float factor = 1;
  if (p.gamma != nullptr) {
    constexpr float kLeastSquares = 1e-24F;  // torch.nn.functional.normalize divides by at least 1e-12
    float squares = 0;
    for (int32_t c = 2 * lane_of(); c < p.width; c += 64) {
      const TwoFloats v = two_at(p, from + c);
      squares += v.x * v.x + v.y * v.y;
    }
    squares = warp_sum(squares);
    factor = p.root * inverse_root(squares < kLeastSquares ? kLeastSquares : squares);
  }
  for (int32_t c = 2 * lane_of(); c < p.width; c += 64) {
    TwoFloats v = two_at(p, from + c);
    if (p.gamma != nullptr) v = {v.x * factor * p.gamma[c], v.y * factor * p.gamma[c + 1]};
    if (p.silu != 0) v = {silu(v.x), silu(v.y)};
    *reinterpret_cast<uint32_t*>(p.y + from + c) = pack_bf16(v.x, v.y);
  }
}

SLA2_KERNEL(sla2_softmax_rows, kRowThreads, 1, SoftmaxParams) {
  const int64_t row = warp_row();
  if (row >= p.rows) return;
  const float* const x = p.x + row * p.stride_x;
  uint16_t* const y = p.y + row * p.stride_y;
  float top = -infinity();
  for (int32_t c = lane_of(); c < p.width; c += 32) top = largest(top, x[c]);
  top = warp_max(top);
  const float scale = p.scale * kLog2E;
  float sum = 0;
  for (int32_t c = lane_of(); c < p.width; c += 32) sum += exp2_fast((x[c] - top) * scale);
  const float inverse = 1 / warp_sum(sum);
  for (int32_t c = 2 * lane_of(); c < p.filled; c += 64) {
    const float low = c < p.width ? exp2_fast((x[c] - top) * scale) * inverse : 0;
    const float high = c + 1 < p.width ? exp2_fast((x[c + 1] - top) * scale) * inverse : 0;
    *reinterpret_cast<uint32_t*>(y + c) = pack_bf16(low, high);
  }
}

SLA2_KERNEL(sla2_planes, kRowThreads, 1, PlanesParams) {
  const int64_t pixel = static_cast<int64_t>(block_x()) * kRowThreads + thread_index();
  if (pixel >= p.pixels) return;
  for (int32_t c = 0; c < p.channels; ++c) {
    const float v = p.x[pixel * p.stride_x + c];
    p.y[c * p.pixels + pixel] = v < -1 ? -1.0F : v > 1 ? 1.0F : v;
  }
}

}  // namespace sla2::cuda
