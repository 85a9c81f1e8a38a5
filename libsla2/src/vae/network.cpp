// SPDX-License-Identifier: Apache-2.0
#include "vae/network.h"

#include <algorithm>
#include <utility>

namespace sla2::vae {

namespace {

struct BlockFunctions {
  std::unique_ptr<Block> (*load)(const WeightReader&, const BlockSpec&);
  BlockCost (*cost)(const BlockSpec&, int64_t, int64_t, const Format&);
};

BlockFunctions functions_of(BlockKind kind) {
  switch (kind) {
    case BlockKind::kPointwise: return {load_pointwise, pointwise_cost};
    case BlockKind::kInput: return {load_input, input_cost};
    case BlockKind::kResidual: return {load_residual, residual_cost};
    case BlockKind::kAttention: return {load_attention, attention_cost};
    case BlockKind::kUpsample2d:
    case BlockKind::kUpsample3d: return {load_upsample, upsample_cost};
    case BlockKind::kDownsample2d:
    case BlockKind::kDownsample3d: return {load_downsample, downsample_cost};
    case BlockKind::kHead: return {load_head, head_cost};
  }
  fail(SLA2_E_INTERNAL, "unknown VAE block kind {}", static_cast<int>(kind));
}

}  // namespace

BlockCost block_cost(const BlockSpec& spec, int64_t height, int64_t width, const Format& format) {
  return functions_of(spec.kind).cost(spec, height * spec.numerator / spec.denominator, width * spec.numerator / spec.denominator,
                                      format);
}

BlockCost& BlockCost::operator+=(const BlockCost& other) noexcept {
  weight_bytes += other.weight_bytes;
  state_bytes += other.state_bytes;
  frame_elements = std::max(frame_elements, other.frame_elements);
  side_elements = std::max(side_elements, other.side_elements);
  narrow_elements = std::max(narrow_elements, other.narrow_elements);
  scratch_bytes = std::max(scratch_bytes, other.scratch_bytes);
  return *this;
}

const void* Workspace::source(const kernels::FrameShape& shape, const float* frame, DType products) {
  if (products != DType::kBF16) return frame;
  kernels::narrow_frame(shape, frame, narrow.data());
  return narrow.data();
}

std::byte* Workspace::scratch_for(const kernels::PackedWinograd& weights, int64_t height, int64_t width) {
  const uint64_t bytes = kernels::PackedWinograd::scratch_bytes(weights.geometry(), height, width);
  SLA2_CHECK(bytes <= scratch.size(), SLA2_E_INTERNAL,
             "VAE: a convolution of {}x{} needs {} bytes of scratch, planned were {}: the number of threads must not grow "
             "while a stream runs",
             width, height, bytes, scratch.size());
  return scratch.data();
}

BlockCost total_cost(const std::vector<BlockSpec>& blocks, int64_t height, int64_t width, const Format& format) {
  BlockCost total;
  for (const BlockSpec& spec : blocks) {
    total += block_cost(spec, height, width, format);
  }
  return total;
}

uint64_t stream_bytes(const BlockCost& total) {
  return total.state_bytes + static_cast<uint64_t>(2 * total.frame_elements + total.side_elements) * sizeof(float) +
         static_cast<uint64_t>(total.narrow_elements) * sizeof(bf16_t) + total.scratch_bytes;
}

Network::Network(std::vector<BlockSpec> specs, const WeightReader& reader) : specs_(std::move(specs)), format_(reader.format()) {
  blocks_.reserve(specs_.size());
  for (const BlockSpec& spec : specs_) blocks_.push_back(functions_of(spec.kind).load(reader, spec));
}

Stream::Stream(const Network& network, int64_t height, int64_t width) : network_(network) {
  const std::vector<BlockSpec>& specs = network.specs();
  const BlockCost total = total_cost(specs, height, width, network.format());
  workspace_.x = AlignedBuffer<float>(static_cast<size_t>(total.frame_elements));
  workspace_.y = AlignedBuffer<float>(static_cast<size_t>(total.frame_elements));
  workspace_.side = AlignedBuffer<float>(static_cast<size_t>(total.side_elements));
  workspace_.narrow = AlignedBuffer<bf16_t>(static_cast<size_t>(total.narrow_elements));
  workspace_.scratch = AlignedBuffer<std::byte>(total.scratch_bytes);
  const auto scaled = [](int64_t size, const BlockSpec& spec) { return size * spec.numerator / spec.denominator; };
  for (size_t i = 0; i < specs.size(); ++i)
    stages_.push_back(network.block(i).start(scaled(height, specs[i]), scaled(width, specs[i])));
  input_ = {specs.front().in, height, width, network.format().block};
  const BlockSpec& last = specs.back();  // the last block of either list keeps the size
  output_ = {last.out, scaled(height, last), scaled(width, last), network.format().block};
}

void Stream::push(const float* planar, int64_t plane_stride, const Sink& sink) {
  kernels::planar_to_frame(input_, planar, plane_stride, workspace_.x.data());
  run_from(0, sink);
}

void Stream::run_from(size_t index, const Sink& sink) {
  if (index == stages_.size()) {
    sink(output_, workspace_.x.data());
    return;
  }
  stages_[index]->push(workspace_, [&] { run_from(index + 1, sink); });
}

}  // namespace sla2::vae
