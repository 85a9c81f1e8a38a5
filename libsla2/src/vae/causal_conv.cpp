// SPDX-License-Identifier: Apache-2.0
#include "vae/causal_conv.h"

namespace sla2::vae {

FrameRing::FrameRing(const kernels::FrameShape& shape, int depth) : shape_(shape) {
  frames_.reserve(static_cast<size_t>(depth));
  for (int i = 0; i < depth; ++i) frames_.emplace_back(static_cast<size_t>(shape.elements()));
}

const float* FrameRing::past(int back) const noexcept {
  return back > count_ ? nullptr : frames_[static_cast<size_t>((count_ - back) % depth())].data();
}

uint64_t FrameRing::bytes(const kernels::FrameShape& shape, int depth) noexcept {
  return static_cast<uint64_t>(shape.elements()) * sizeof(float) * static_cast<uint64_t>(depth);
}

TapConvs::TapConvs(const CausalTaps& taps, int64_t height, int64_t width) {
  convs_.reserve(taps.size());
  for (const kernels::PackedConv& tap : taps) convs_.emplace_back(tap, height, width);
}

bool TapConvs::run_past(const FrameRing& ring, float* dst, bool accumulate) {
  for (int back = kCausalTaps - 1; back >= 1; --back) {
    const float* frame = ring.past(back);
    if (frame == nullptr) continue;
    convs_[static_cast<size_t>(kCausalTaps - 1 - back)].run(frame, dst, accumulate);
    accumulate = true;
  }
  return accumulate;
}

void TapConvs::run_newest(const float* newest, float* dst, bool accumulate) { convs_.back().run(newest, dst, accumulate); }

CausalConv::CausalConv(const CausalTaps& taps, int64_t height, int64_t width)
    : convs_(taps, height, width), ring_(convs_.input(), kRingDepth) {}

uint64_t causal_weight_bytes(int64_t in, int64_t out, int64_t kernel, int64_t block) {
  const auto geometry = kernels::ConvGeometry::same(in, out, kernel);
  return 2 * kernels::PackedConv::bytes_for(geometry, false, block) + kernels::PackedConv::bytes_for(geometry, true, block);
}

}  // namespace sla2::vae
