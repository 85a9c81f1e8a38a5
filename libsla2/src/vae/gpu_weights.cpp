// SPDX-License-Identifier: Apache-2.0
#include "vae/gpu_weights.h"

namespace sla2::vae {

namespace {

constexpr int kTaps = 3;  // of a causal convolution, in time and along each side

int64_t whole(int64_t channels) { return (channels + device::kWidthStep - 1) / device::kWidthStep * device::kWidthStep; }

std::vector<bf16_t> read_weight(const weights::Checkpoint& checkpoint, const ConvPlace& p) {
  const int64_t taps = p.frames * p.side * p.side;
  std::vector<int64_t> shape{p.rows, p.in, p.side, p.side};
  if (!p.flat) shape.insert(shape.begin() + 2, p.frames);
  std::vector<float> values(static_cast<size_t>(p.rows * p.in * taps));
  checkpoint.read_f32(p.name + ".weight", shape, values);
  std::vector<bf16_t> weight(static_cast<size_t>(taps * p.out * p.in), bf16_t{0});
  parallel_for(p.rows, [&](int64_t row, int) {
    const float* from = values.data() + row * p.in * taps;
    for (int64_t i = 0; i < p.in; ++i)
      for (int64_t tap = 0; tap < taps; ++tap) weight[static_cast<size_t>((tap * p.out + row) * p.in + i)] = f32_to_bf16(*from++);
  });
  return weight;
}

}  // namespace

GpuPlaces::GpuPlaces(const config::VaeConfig& config) {
  for (const BlockSpec& spec : decoder_blocks(config)) blocks_.push_back(block_of(spec));
  memory_.solve();
}

ConvPlace GpuPlaces::place(const std::string& name, int64_t in, int64_t out, int frames, int side, bool flat) {
  SLA2_CHECK(in % device::kWidthStep == 0, SLA2_E_UNSUPPORTED,
             "VAE decode on a GPU: {} has {} input channels; the kernels need a multiple of {}: decode on the CPU", name, in,
             device::kWidthStep);
  ConvPlace p{name, in, whole(out), out, frames, side, flat};
  const auto weights = static_cast<uint64_t>(frames * side * side * p.out * in);
  p.weight = memory_.add(name + ".weight", weights * sizeof(bf16_t), 0, 0);
  p.bias = memory_.add(name + ".bias", static_cast<uint64_t>(p.out) * sizeof(float), 0, 0);
  return p;
}

GammaPlace GpuPlaces::place_gamma(const std::string& name, int64_t channels, int rank) {
  return {name, channels, rank, memory_.add(name, static_cast<uint64_t>(channels) * sizeof(float), 0, 0)};
}

GpuBlock GpuPlaces::block_of(const BlockSpec& s) {
  GpuBlock block{s, {}, {}};
  const auto causal = [&](const std::string& name, int64_t in) { block.convs.push_back(place(name, in, s.out, kTaps, kTaps)); };
  const auto gamma = [&](const std::string& name, int64_t channels, int rank = 4) {
    block.gammas.push_back(place_gamma(name + ".gamma", channels, rank));
  };
  switch (s.kind) {
    case BlockKind::kPointwise: block.convs.push_back(place(s.name, s.in, s.out, 1, 1)); break;
    case BlockKind::kInput: causal(s.name, s.in); break;
    case BlockKind::kResidual:
      gamma(s.name + ".residual.0", s.in);
      causal(s.name + ".residual.2", s.in);
      gamma(s.name + ".residual.3", s.out);
      causal(s.name + ".residual.6", s.out);
      if (s.in != s.out) block.convs.push_back(place(s.name + ".shortcut", s.in, s.out, 1, 1));
      break;
    case BlockKind::kAttention:
      gamma(s.name + ".norm", s.in, 3);
      block.convs.push_back(place(s.name + ".to_qkv", s.in, 3 * s.in, 1, 1, true));
      block.convs.push_back(place(s.name + ".proj", s.in, s.in, 1, 1, true));
      break;
    case BlockKind::kUpsample3d:
    case BlockKind::kUpsample2d:
      block.convs.push_back(place(s.name + ".resample.1", s.in, s.out, 1, kTaps, true));
      if (s.kind == BlockKind::kUpsample3d) block.convs.push_back(place(s.name + ".time_conv", s.in, 2 * s.in, kTaps, 1));
      break;
    case BlockKind::kHead:
      gamma(s.name + ".0", s.in);
      causal(s.name + ".2", s.in);
      break;
    default: fail(SLA2_E_INTERNAL, "VAE: block {} does not belong in a decoder", s.name);
  }
  return block;
}

void GpuPlaces::load(device::Gpu& gpu, const weights::Checkpoint& checkpoint, std::byte* target,
                     const CancelToken& cancel) const {
  const auto copy = [&](size_t place, const auto& values) {
    gpu.copy_in(target + memory_.offset(place), values.data(), values.size() * sizeof(values[0]));
  };
  for (const GpuBlock& block : blocks_) {
    cancel.check();
    for (const ConvPlace& p : block.convs) {
      copy(p.weight, read_weight(checkpoint, p));
      std::vector<float> bias(static_cast<size_t>(p.out), 0.0F);
      checkpoint.read_f32(p.name + ".bias", std::vector<int64_t>{p.rows}, std::span(bias).first(static_cast<size_t>(p.rows)));
      copy(p.bias, bias);
    }
    for (const GammaPlace& p : block.gammas) {
      std::vector<int64_t> shape(static_cast<size_t>(p.rank), 1);
      shape[0] = p.channels;
      std::vector<float> values(static_cast<size_t>(p.channels));
      checkpoint.read_f32(p.name, shape, values);
      copy(p.values, values);
    }
  }
}

device::ConvWeight GpuPlaces::conv(const ConvPlace& p, const std::byte* base) const {
  return {reinterpret_cast<const uint16_t*>(base + memory_.offset(p.weight)),
          reinterpret_cast<const float*>(base + memory_.offset(p.bias)),
          p.in,
          p.out,
          p.frames,
          p.side};
}

device::LinearWeight GpuPlaces::linear(const ConvPlace& p, const std::byte* base) const {
  const device::ConvWeight weight = conv(p, base);
  return {weight.weight, nullptr, weight.bias, p.in, p.out};
}

const float* GpuPlaces::gamma(const GammaPlace& p, const std::byte* base) const {
  return reinterpret_cast<const float*>(base + memory_.offset(p.values));
}

}  // namespace sla2::vae
