// SPDX-License-Identifier: Apache-2.0
// The plain blocks at both ends: 1x1x1 convolution, input convolution, head (norm, SiLU, convolution).
#include <algorithm>
#include <utility>

#include "kernels/rms_silu.h"
#include "vae/causal_conv.h"
#include "vae/stage.h"

namespace sla2::vae {

namespace {

using kernels::Conv;
using kernels::ConvGeometry;
using kernels::FrameShape;
using kernels::PackedConv;

class PointwiseStage final : public Stage {
 public:
  PointwiseStage(const PackedConv& weights, int64_t height, int64_t width) : conv_(weights, height, width) {}
  void push(Workspace& workspace, const Next& next) override {
    conv_.run(workspace.x.data(), workspace.y.data(), false);
    std::swap(workspace.x, workspace.y);
    next();
  }

 private:
  Conv conv_;
};

class PointwiseBlock final : public Block {
 public:
  PointwiseBlock(const WeightReader& reader, const BlockSpec& spec)
      : weights_(reader.conv(spec.name, ConvGeometry::same(spec.in, spec.out, 1), 5)) {}
  std::unique_ptr<Stage> start(int64_t height, int64_t width) const override {
    return std::make_unique<PointwiseStage>(weights_, height, width);
  }

 private:
  PackedConv weights_;
};

constexpr int64_t kEndKernel = 3;  // of the convolutions at both ends

/// gamma empty: no norm and no SiLU before the convolution.
class EndStage final : public Stage {
 public:
  EndStage(const CausalTaps& taps, const std::vector<float>& gamma, int64_t height, int64_t width)
      : conv_(taps, height, width), gamma_(gamma) {}
  void push(Workspace& workspace, const Next& next) override {
    conv_.begin(workspace.y.data(), false);
    const FrameShape& shape = conv_.input_shape();
    if (gamma_.empty()) {
      kernels::copy_frame(shape, workspace.x.data(), conv_.input());
    } else {
      kernels::rms_silu(shape, workspace.x.data(), gamma_.data(), true, conv_.input());
    }
    conv_.finish(workspace.y.data());
    std::swap(workspace.x, workspace.y);
    next();
  }

 private:
  CausalConv conv_;
  const std::vector<float>& gamma_;
};

class EndBlock final : public Block {
 public:
  EndBlock(const WeightReader& reader, const BlockSpec& spec, const std::string& conv_name, const std::string& norm_name)
      : taps_(reader.causal(conv_name, spec.in, spec.out, kEndKernel)) {
    if (!norm_name.empty()) gamma_ = reader.gamma(norm_name, spec.in, 4);
  }
  std::unique_ptr<Stage> start(int64_t height, int64_t width) const override {
    return std::make_unique<EndStage>(taps_, gamma_, height, width);
  }

 private:
  CausalTaps taps_;
  std::vector<float> gamma_;
};

}  // namespace

std::unique_ptr<Block> load_pointwise(const WeightReader& reader, const BlockSpec& spec) {
  return std::make_unique<PointwiseBlock>(reader, spec);
}

std::unique_ptr<Block> load_input(const WeightReader& reader, const BlockSpec& spec) {
  return std::make_unique<EndBlock>(reader, spec, spec.name, "");
}

std::unique_ptr<Block> load_head(const WeightReader& reader, const BlockSpec& spec) {
  return std::make_unique<EndBlock>(reader, spec, spec.name + ".2", spec.name + ".0");
}

BlockCost pointwise_cost(const BlockSpec& spec, int64_t height, int64_t width, int64_t block) {
  const FrameShape in{spec.in, height, width, block}, out{spec.out, height, width, block};
  return {PackedConv::bytes_for(ConvGeometry::same(spec.in, spec.out, 1), true, block), 0,
          std::max(in.elements(), out.elements()), 0};
}

BlockCost input_cost(const BlockSpec& spec, int64_t height, int64_t width, int64_t block) {
  const FrameShape in{spec.in, height, width, block}, out{spec.out, height, width, block};
  return {causal_weight_bytes(spec.in, spec.out, kEndKernel, block), FrameRing::bytes(in, CausalConv::kRingDepth),
          std::max(in.elements(), out.elements()), 0};
}

BlockCost head_cost(const BlockSpec& spec, int64_t height, int64_t width, int64_t block) {
  return input_cost(spec, height, width, block);
}

}  // namespace sla2::vae
