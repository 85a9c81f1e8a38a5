// SPDX-License-Identifier: Apache-2.0
// Residual block: norm, SiLU, conv, norm, SiLU, conv, plus the input (through a 1x1x1 convolution where channels change).
// The second convolution adds straight onto the shortcut, so the sum costs no pass of its own.
#include <optional>
#include <utility>

#include "vae/causal_conv.h"
#include "vae/stage.h"

namespace sla2::vae {

namespace {

using kernels::ConvGeometry;
using kernels::FrameShape;
using kernels::PackedConv;

struct ResidualWeights {
  std::vector<float> gamma1, gamma2;
  CausalWeights conv1, conv2;
  std::optional<PackedConv> shortcut;
};

class ResidualStage final : public Stage {
 public:
  ResidualStage(const ResidualWeights& weights, int64_t height, int64_t width)
      : weights_(weights), conv1_(weights.conv1, height, width), conv2_(weights.conv2, height, width) {
    if (weights.shortcut) shortcut_.emplace(*weights.shortcut, height, width);
  }

  void push(Workspace& workspace, const Next& next) override {
    float* x = workspace.x.data();
    float* hidden = workspace.y.data();
    conv1_.push(x, weights_.gamma1.data(), hidden, false, workspace);
    float* sum = x;
    if (shortcut_) {
      sum = workspace.side.data();
      shortcut_->run(workspace.source(shortcut_->input(), x, shortcut_->products()), sum, false, workspace.scratch.span());
    }
    conv2_.push(hidden, weights_.gamma2.data(), sum, true, workspace);
    if (shortcut_) kernels::copy_frame(shortcut_->output(), sum, x);  // side is smaller than x in general: no swap
    next();
  }

 private:
  const ResidualWeights& weights_;
  CausalConv conv1_, conv2_;
  std::optional<kernels::Conv> shortcut_;
};

class ResidualBlock final : public Block {
 public:
  ResidualBlock(const WeightReader& reader, const BlockSpec& spec) {
    const std::string body = spec.name + ".residual.";
    weights_.gamma1 = reader.gamma(body + "0", spec.in, 4);
    weights_.conv1 = read_causal(reader, body + "2", spec.in, spec.out);
    weights_.gamma2 = reader.gamma(body + "3", spec.out, 4);
    weights_.conv2 = read_causal(reader, body + "6", spec.out, spec.out);
    if (spec.in != spec.out)
      weights_.shortcut = reader.conv(spec.name + ".shortcut", ConvGeometry::same(spec.in, spec.out, 1), 5);
  }
  std::unique_ptr<Stage> start(int64_t height, int64_t width) const override {
    return std::make_unique<ResidualStage>(weights_, height, width);
  }

 private:
  ResidualWeights weights_;
};

}  // namespace

std::unique_ptr<Block> load_residual(const WeightReader& reader, const BlockSpec& spec) {
  return std::make_unique<ResidualBlock>(reader, spec);
}

BlockCost residual_cost(const BlockSpec& spec, int64_t height, int64_t width, const Format& format) {
  BlockCost cost = causal_cost(spec.in, spec.out, height, width, format);
  cost += causal_cost(spec.out, spec.out, height, width, format);
  if (spec.in != spec.out) {
    const FrameShape in{spec.in, height, width, format.block}, out{spec.out, height, width, format.block};
    cost += direct_cost(ConvGeometry::same(spec.in, spec.out, 1), height, width, format);
    cost.side_elements = out.elements();
    if (format.narrow()) cost.narrow_elements = in.elements();
  }
  return cost;
}

}  // namespace sla2::vae
