// SPDX-License-Identifier: Apache-2.0
// Residual block: norm, SiLU, conv, norm, SiLU, conv, plus the input (through a 1x1x1 convolution where channels change).
// The second convolution adds straight onto the shortcut, so the sum costs no pass of its own.
#include <algorithm>
#include <optional>
#include <utility>

#include "kernels/rms_silu.h"
#include "vae/causal_conv.h"
#include "vae/stage.h"

namespace sla2::vae {

namespace {

using kernels::ConvGeometry;
using kernels::FrameShape;
using kernels::PackedConv;

constexpr int64_t kBodyKernel = 3;

struct ResidualWeights {
  std::vector<float> gamma1, gamma2;
  CausalTaps conv1, conv2;
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
    conv1_.begin(hidden, false);
    kernels::rms_silu(conv1_.input_shape(), x, weights_.gamma1.data(), true, conv1_.input());
    conv1_.finish(hidden);
    float* sum = x;
    if (shortcut_) {
      sum = workspace.side.data();
      shortcut_->run(x, sum, false);
    }
    conv2_.begin(sum, true);
    kernels::rms_silu(conv2_.input_shape(), hidden, weights_.gamma2.data(), true, conv2_.input());
    conv2_.finish(sum);
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
    weights_.conv1 = reader.causal(body + "2", spec.in, spec.out, kBodyKernel);
    weights_.gamma2 = reader.gamma(body + "3", spec.out, 4);
    weights_.conv2 = reader.causal(body + "6", spec.out, spec.out, kBodyKernel);
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

BlockCost residual_cost(const BlockSpec& spec, int64_t height, int64_t width, int64_t block) {
  const FrameShape in{spec.in, height, width, block}, out{spec.out, height, width, block};
  BlockCost cost;
  cost.weight_bytes =
      causal_weight_bytes(spec.in, spec.out, kBodyKernel, block) + causal_weight_bytes(spec.out, spec.out, kBodyKernel, block);
  cost.state_bytes = FrameRing::bytes(in, CausalConv::kRingDepth) + FrameRing::bytes(out, CausalConv::kRingDepth);
  cost.frame_elements = std::max(in.elements(), out.elements());
  if (spec.in != spec.out) {
    cost.weight_bytes += PackedConv::bytes_for(ConvGeometry::same(spec.in, spec.out, 1), true, block);
    cost.side_elements = out.elements();
  }
  return cost;
}

}  // namespace sla2::vae
