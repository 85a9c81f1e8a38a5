// SPDX-License-Identifier: Apache-2.0
#include "vae/causal_conv.h"

#include <algorithm>
#include <array>
#include <utility>

#include "kernels/rms_silu.h"

namespace sla2::vae {

namespace {

using kernels::ConvGeometry;
using kernels::FrameShape;
using kernels::PackedConv;
using kernels::PackedWinograd;
using kernels::WinogradGeometry;

constexpr int64_t kKernel = 3;
constexpr int kTapDepth = 2;  // the oldest frame is used up before the newest is written
constexpr int kPointDepth = kCausalTaps;

WinogradGeometry causal_geometry(int64_t in, int64_t out) { return {in, out, kCausalTaps, kernels::WinogradForm::kSame}; }

BlockCost taps_cost(const ConvGeometry& geometry, int64_t height, int64_t width, const Format& format) {
  BlockCost cost = direct_cost(geometry, height, width, format);
  cost.weight_bytes += 2 * PackedConv::bytes_for(geometry, false, format.block, format.products);
  cost.scratch_bytes =
      std::max(cost.scratch_bytes, PackedConv::scratch_bytes(geometry, height, width, false, format.block, format.products));
  return cost;
}

}  // namespace

FrameRing::FrameRing(const FrameShape& shape, int depth, DType type) : shape_(shape), type_(type) {
  frames_.reserve(static_cast<size_t>(depth));
  for (int i = 0; i < depth; ++i) frames_.emplace_back(bytes(shape, 1, type));
}

void FrameRing::write(const float* frame) {
  if (type_ == DType::kBF16) {
    kernels::narrow_frame(shape_, frame, slot_as<bf16_t>());
  } else {
    kernels::copy_frame(shape_, frame, slot_as<float>());
  }
}

void FrameRing::write_normalised(const float* frame, const float* gamma) {
  if (type_ == DType::kBF16) {
    kernels::rms_silu(shape_, frame, gamma, true, slot_as<bf16_t>());
  } else {
    kernels::rms_silu(shape_, frame, gamma, true, slot_as<float>());
  }
}

uint64_t FrameRing::bytes(const FrameShape& shape, int depth, DType type) noexcept {
  return static_cast<uint64_t>(shape.elements()) * dtype_size(type) * static_cast<uint64_t>(depth);
}

TapConvs::TapConvs(const CausalTaps& taps, int64_t height, int64_t width) {
  convs_.reserve(taps.size());
  for (const PackedConv& tap : taps) convs_.emplace_back(tap, height, width);
}

bool TapConvs::run_past(const FrameRing& ring, float* dst, bool accumulate, Workspace& workspace) {
  for (int back = kCausalTaps - 1; back >= 1; --back) {
    const void* frame = ring.past(back);
    if (frame == nullptr) continue;
    convs_[static_cast<size_t>(kCausalTaps - 1 - back)].run(frame, dst, accumulate, workspace.scratch.span());
    accumulate = true;
  }
  return accumulate;
}

void TapConvs::run_newest(const void* newest, float* dst, bool accumulate, Workspace& workspace) {
  convs_.back().run(newest, dst, accumulate, workspace.scratch.span());
}

CausalWeights read_causal(const WeightReader& reader, const std::string& name, int64_t in, int64_t out) {
  if (reader.format().narrow()) return reader.winograd(name, causal_geometry(in, out));
  return reader.causal(name, in, out, kKernel);
}

CausalConv::CausalConv(const CausalWeights& weights, int64_t height, int64_t width)
    : convs_([&]() -> decltype(convs_) {
        if (const auto* points = std::get_if<PackedWinograd>(&weights)) return points;
        return TapConvs(std::get<CausalTaps>(weights), height, width);
      }()),
      ring_([&] {
        if (const auto* taps = std::get_if<TapConvs>(&convs_)) return FrameRing(taps->input(), kTapDepth, DType::kF32);
        const int64_t channels = std::get<PackedWinograd>(weights).geometry().in_channels;
        return FrameRing({channels, height, width, kernels::kWinogradBlock}, kPointDepth, DType::kBF16);
      }()),
      height_(height),
      width_(width) {}

void CausalConv::push(const float* x, const float* gamma, float* dst, bool accumulate, Workspace& workspace) {
  const auto write = [&] {
    if (gamma == nullptr) {
      ring_.write(x);
    } else {
      ring_.write_normalised(x, gamma);
    }
  };
  if (auto* taps = std::get_if<TapConvs>(&convs_)) {
    const bool holds = taps->run_past(ring_, dst, accumulate, workspace);
    write();
    taps->run_newest(ring_.slot(), dst, holds, workspace);
  } else {
    write();
    std::array<const bf16_t*, kCausalTaps> frames{};
    size_t count = 0;
    for (int back = kCausalTaps - 1; back >= 0; --back)
      if (const void* frame = ring_.past(back); frame != nullptr) frames[count++] = static_cast<const bf16_t*>(frame);
    const PackedWinograd& points = *std::get<const PackedWinograd*>(convs_);
    points.run(std::span(frames.data(), count), height_, width_, dst, accumulate, workspace.scratch_for(points, height_, width_));
  }
  ring_.advance();
}

BlockCost causal_cost(int64_t in, int64_t out, int64_t height, int64_t width, const Format& format) {
  const FrameShape input{in, height, width, format.block}, output{out, height, width, format.block};
  BlockCost cost;
  cost.frame_elements = std::max(input.elements(), output.elements());
  if (format.narrow()) {
    const WinogradGeometry geometry = causal_geometry(in, out);
    cost.weight_bytes = PackedWinograd::bytes_for(geometry);
    cost.state_bytes = FrameRing::bytes(input, kPointDepth, DType::kBF16);
    cost.scratch_bytes = PackedWinograd::scratch_bytes(geometry, height, width);
  } else {
    const BlockCost taps = taps_cost(ConvGeometry::same(in, out, kKernel), height, width, format);
    cost.weight_bytes = taps.weight_bytes;
    cost.scratch_bytes = taps.scratch_bytes;
    cost.state_bytes = FrameRing::bytes(input, kTapDepth, DType::kF32);
  }
  return cost;
}

BlockCost time_cost(int64_t in, int64_t out, int64_t height, int64_t width, const Format& format) {
  return taps_cost(ConvGeometry::same(in, out, 1), height, width, format);
}

BlockCost direct_cost(const ConvGeometry& geometry, int64_t height, int64_t width, const Format& format) {
  BlockCost cost;
  cost.weight_bytes = PackedConv::bytes_for(geometry, true, format.block, format.products);
  cost.scratch_bytes = PackedConv::scratch_bytes(geometry, height, width, true, format.block, format.products);
  return cost;
}

}  // namespace sla2::vae
