// SPDX-License-Identifier: Apache-2.0
// The plain blocks at both ends: 1x1x1 convolution, input convolution, head (norm, SiLU, convolution).
#include <algorithm>
#include <utility>

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
    const void* source = workspace.source(conv_.input(), workspace.x.data(), conv_.products());
    conv_.run(source, workspace.y.data(), false, workspace.scratch.span());
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

/// gamma empty: no norm and no SiLU before the convolution.
class EndStage final : public Stage {
 public:
  EndStage(const CausalWeights& weights, const std::vector<float>& gamma, int64_t height, int64_t width)
      : conv_(weights, height, width), gamma_(gamma) {}
  void push(Workspace& workspace, const Next& next) override {
    conv_.push(workspace.x.data(), gamma_.empty() ? nullptr : gamma_.data(), workspace.y.data(), false, workspace);
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
      : weights_(read_causal(reader, conv_name, spec.in, spec.out)) {
    if (!norm_name.empty()) gamma_ = reader.gamma(norm_name, spec.in, 4);
  }
  std::unique_ptr<Stage> start(int64_t height, int64_t width) const override {
    return std::make_unique<EndStage>(weights_, gamma_, height, width);
  }

 private:
  CausalWeights weights_;
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

BlockCost pointwise_cost(const BlockSpec& spec, int64_t height, int64_t width, const Format& format) {
  const FrameShape in{spec.in, height, width, format.block}, out{spec.out, height, width, format.block};
  BlockCost cost = direct_cost(ConvGeometry::same(spec.in, spec.out, 1), height, width, format);
  cost.frame_elements = std::max(in.elements(), out.elements());
  if (format.narrow()) cost.narrow_elements = in.elements();
  return cost;
}

BlockCost input_cost(const BlockSpec& spec, int64_t height, int64_t width, const Format& format) {
  return causal_cost(spec.in, spec.out, height, width, format);
}

BlockCost head_cost(const BlockSpec& spec, int64_t height, int64_t width, const Format& format) {
  return causal_cost(spec.in, spec.out, height, width, format);
}

}  // namespace sla2::vae
