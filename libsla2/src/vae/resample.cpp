// SPDX-License-Identifier: Apache-2.0
// Spatial and temporal up- and downsampling.
// Upsampling: nearest x2 followed by a 3x3 convolution gives, on each of the four pixel phases, a 2x2 convolution of the small
// frame whose weights are sums of the 3x3 ones: the large intermediate frame never exists and 5/9 of the products fall away. With
// bf16 products it is WinogradForm::kDoubled, where 3/4 of them do.
// Temporal upsampling: a (3,1,1) convolution to two halves of the channels, which become two frames; each is pushed through the
// rest of the decoder before the other is computed. The first frame of a stream skips it and leaves no trace in its cache.
#include <algorithm>
#include <array>
#include <optional>
#include <utility>
#include <variant>

#include "vae/causal_conv.h"
#include "vae/stage.h"

namespace sla2::vae {

namespace {

using kernels::Conv;
using kernels::ConvGeometry;
using kernels::FrameShape;
using kernels::PackedConv;
using kernels::PackedWinograd;
using kernels::WinogradForm;
using kernels::WinogradGeometry;

constexpr int64_t kResampleKernel = 3;
constexpr int kPhases = 2;         // output pixels per input pixel along one axis
constexpr int kTimeRingDepth = 3;  // two past frames and the newest, which must outlive the push of the first half

using PhaseWeights = std::array<PackedConv, kPhases * kPhases>;

/// 2x2 kernel of one phase. Along an axis, phase 0 sees pixels (p-1, p) with weights (w0, w1+w2) and phase 1 sees (p, p+1)
/// with (w0+w1, w2).
ConvGeometry phase_geometry(int64_t in, int64_t out, int row, int column) {
  return {in, out, 2, 2, 1, row == 0 ? 1 : 0, column == 0 ? 1 : 0, row == 0 ? 0 : 1, column == 0 ? 0 : 1};
}

int folded(int phase, int64_t k) { return phase == 0 ? (k == 0 ? 0 : 1) : (k == 2 ? 1 : 0); }

PhaseWeights phase_weights(const WeightReader& reader, const std::string& name, int64_t in, int64_t out) {
  const std::vector<float> weights = reader.read(name + ".weight", {out, in, kResampleKernel, kResampleKernel});
  const std::vector<float> bias = reader.read(name + ".bias", {out});
  PhaseWeights phases;
  std::vector<double> sums;
  std::vector<float> folded_weights(static_cast<size_t>(out * in * 4));
  for (int row = 0; row < kPhases; ++row)
    for (int column = 0; column < kPhases; ++column) {
      sums.assign(folded_weights.size(), 0.0);
      for (int64_t pair = 0; pair < out * in; ++pair)
        for (int64_t ky = 0; ky < kResampleKernel; ++ky)
          for (int64_t kx = 0; kx < kResampleKernel; ++kx)
            sums[static_cast<size_t>(pair * 4 + folded(row, ky) * 2 + folded(column, kx))] +=
                weights[static_cast<size_t>((pair * kResampleKernel + ky) * kResampleKernel + kx)];
      std::transform(sums.begin(), sums.end(), folded_weights.begin(), [](double sum) { return static_cast<float>(sum); });
      phases[static_cast<size_t>(row) * kPhases + static_cast<size_t>(column)] = {
          phase_geometry(in, out, row, column), folded_weights.data(), bias.data(), reader.format().block};
    }
  return phases;
}

WinogradGeometry doubled(int64_t in, int64_t out) { return {in, out, 1, WinogradForm::kDoubled}; }

struct UpsampleWeights {
  std::variant<PhaseWeights, PackedWinograd> space;
  std::vector<CausalTaps> halves;  // empty: spatial only
};

class UpsampleStage final : public Stage {
 public:
  UpsampleStage(const UpsampleWeights& weights, const FrameShape& input)
      : input_(input), points_(std::get_if<PackedWinograd>(&weights.space)) {
    if (const auto* phases = std::get_if<PhaseWeights>(&weights.space))
      for (const PackedConv& phase : *phases) phases_.emplace_back(phase, input.height, input.width);
    for (const CausalTaps& half : weights.halves) halves_.emplace_back(half, input.height, input.width);
    if (!halves_.empty()) ring_.emplace(input, kTimeRingDepth, halves_.front().products());
  }

  void push(Workspace& workspace, const Next& next) override {
    if (halves_.empty() || first_) {
      first_ = false;
      upsample(workspace);
      next();
      return;
    }
    ring_->write(workspace.x.data());
    for (TapConvs& half : halves_) {
      const bool holds = half.run_past(*ring_, workspace.x.data(), false, workspace);
      half.run_newest(ring_->slot(), workspace.x.data(), holds, workspace);
      upsample(workspace);
      next();
    }
    ring_->advance();
  }

 private:
  /// workspace.x [in,h,w] becomes [out,2h,2w].
  void upsample(Workspace& workspace) {
    if (points_ != nullptr) {
      const void* source = workspace.source(input_, workspace.x.data(), DType::kBF16);
      const std::array frames{static_cast<const bf16_t*>(source)};
      points_->run(frames, input_.height, input_.width, workspace.y.data(), false,
                   workspace.scratch_for(*points_, input_.height, input_.width));
      std::swap(workspace.x, workspace.y);
      return;
    }
    for (int row = 0; row < kPhases; ++row)
      for (int column = 0; column < kPhases; ++column) {
        Conv& phase = phases_[static_cast<size_t>(row) * kPhases + static_cast<size_t>(column)];
        phase.run(workspace.x.data(), workspace.side.data(), false, workspace.scratch.span());
        kernels::scatter_phase(phase.output(), workspace.side.data(), row, column, workspace.y.data());
      }
    std::swap(workspace.x, workspace.y);
  }

  FrameShape input_;
  const PackedWinograd* points_;  ///< or null
  std::vector<Conv> phases_;
  std::vector<TapConvs> halves_;
  std::optional<FrameRing> ring_;
  bool first_ = true;
};

class UpsampleBlock final : public Block {
 public:
  UpsampleBlock(const WeightReader& reader, const BlockSpec& spec) : channels_(spec.in), block_(reader.format().block) {
    const std::string name = spec.name + ".resample.1";
    if (reader.format().narrow()) {
      weights_.space = reader.winograd(name, doubled(spec.in, spec.out));
    } else {
      weights_.space = phase_weights(reader, name, spec.in, spec.out);
    }
    if (spec.kind == BlockKind::kUpsample3d)
      for (int64_t half = 0; half < 2; ++half)
        weights_.halves.push_back(reader.causal(spec.name + ".time_conv", spec.in, spec.in, 1, half * spec.in, 2 * spec.in));
  }
  std::unique_ptr<Stage> start(int64_t height, int64_t width) const override {
    return std::make_unique<UpsampleStage>(weights_, FrameShape{channels_, height, width, block_});
  }

 private:
  int64_t channels_, block_;
  UpsampleWeights weights_;
};

/// Zero padding on the right and at the bottom only, stride 2.
ConvGeometry halving(int64_t channels) { return {channels, channels, kResampleKernel, kResampleKernel, 2, 0, 0, 1, 1}; }

struct DownsampleWeights {
  PackedConv space;
  std::optional<CausalTaps> time;
};

class DownsampleStage final : public Stage {
 public:
  DownsampleStage(const DownsampleWeights& weights, int64_t height, int64_t width) : space_(weights.space, height, width) {
    if (!weights.time) return;
    const FrameShape& half = space_.output();
    time_.emplace(*weights.time, half.height, half.width);
    ring_.emplace(half, kTimeRingDepth, time_->products());
  }

  void push(Workspace& workspace, const Next& next) override {
    space_.run(workspace.source(space_.input(), workspace.x.data(), space_.products()), workspace.y.data(), false,
               workspace.scratch.span());
    std::swap(workspace.x, workspace.y);
    if (!time_) {
      next();
      return;
    }
    // Stride 2 in time with one cached frame: frame 0 passes, then every second frame closes a window of three.
    ring_->write(workspace.x.data());
    const int64_t index = ring_->count();
    if (index > 0 && index % 2 == 0) {
      const bool holds = time_->run_past(*ring_, workspace.x.data(), false, workspace);
      time_->run_newest(ring_->slot(), workspace.x.data(), holds, workspace);
    }
    ring_->advance();
    if (index % 2 == 0) next();
  }

 private:
  Conv space_;
  std::optional<TapConvs> time_;
  std::optional<FrameRing> ring_;
};

class DownsampleBlock final : public Block {
 public:
  DownsampleBlock(const WeightReader& reader, const BlockSpec& spec) {
    weights_.space = reader.conv(spec.name + ".resample.1", halving(spec.in));
    if (spec.kind == BlockKind::kDownsample3d) weights_.time = reader.causal(spec.name + ".time_conv", spec.in, spec.in, 1);
  }
  std::unique_ptr<Stage> start(int64_t height, int64_t width) const override {
    return std::make_unique<DownsampleStage>(weights_, height, width);
  }

 private:
  DownsampleWeights weights_;
};

}  // namespace

std::unique_ptr<Block> load_upsample(const WeightReader& reader, const BlockSpec& spec) {
  return std::make_unique<UpsampleBlock>(reader, spec);
}

std::unique_ptr<Block> load_downsample(const WeightReader& reader, const BlockSpec& spec) {
  return std::make_unique<DownsampleBlock>(reader, spec);
}

BlockCost upsample_cost(const BlockSpec& spec, int64_t height, int64_t width, const Format& format) {
  const FrameShape in{spec.in, height, width, format.block}, phase{spec.out, height, width, format.block};
  BlockCost cost;
  cost.frame_elements = std::max(in.elements(), kPhases * kPhases * phase.elements());
  if (format.narrow()) {
    cost.weight_bytes = PackedWinograd::bytes_for(doubled(spec.in, spec.out));
    cost.narrow_elements = in.elements();
    cost.scratch_bytes = PackedWinograd::scratch_bytes(doubled(spec.in, spec.out), height, width);
  } else {
    for (int phase_index = 0; phase_index < kPhases * kPhases; ++phase_index)
      cost += direct_cost(phase_geometry(spec.in, spec.out, phase_index / kPhases, phase_index % kPhases), height, width, format);
    cost.side_elements = phase.elements();
  }
  if (spec.kind == BlockKind::kUpsample3d) {
    for (int half = 0; half < 2; ++half) cost += time_cost(spec.in, spec.in, height, width, format);
    cost.state_bytes = FrameRing::bytes(in, kTimeRingDepth, format.products);
  }
  return cost;
}

BlockCost downsample_cost(const BlockSpec& spec, int64_t height, int64_t width, const Format& format) {
  const FrameShape in{spec.in, height, width, format.block};
  BlockCost cost = direct_cost(halving(spec.in), height, width, format);
  cost.frame_elements = in.elements();
  if (format.narrow()) cost.narrow_elements = in.elements();
  if (spec.kind == BlockKind::kDownsample3d) {
    const FrameShape half = halving(spec.in).output(in);
    cost += time_cost(spec.in, spec.in, half.height, half.width, format);
    cost.state_bytes = FrameRing::bytes(half, kTimeRingDepth, format.products);
  }
  return cost;
}

}  // namespace sla2::vae
