// SPDX-License-Identifier: Apache-2.0
#include "vae/weight_reader.h"

#include <algorithm>
#include <functional>
#include <numeric>
#include <utility>

namespace sla2::vae {

WeightReader::WeightReader(Fetch fetch, bool bf16, const Format& format)
    : fetch_(std::move(fetch)), round_(bf16), format_(format) {}

WeightReader WeightReader::from(const weights::Checkpoint& checkpoint, bool bf16) {
  return {[&checkpoint](std::string_view name, std::span<const int64_t> shape, std::span<float> target) {
            checkpoint.read_f32(name, shape, target);
          },
          bf16, Format::of(bf16)};
}

std::vector<float> WeightReader::read_exact(const std::string& name, const std::vector<int64_t>& shape) const {
  const int64_t count = std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>());
  std::vector<float> values(static_cast<size_t>(count));
  fetch_(name, shape, values);
  return values;
}

std::vector<float> WeightReader::read(const std::string& name, const std::vector<int64_t>& shape) const {
  std::vector<float> values = read_exact(name, shape);
  if (round_)
    for (float& value : values) value = bf16_to_f32(f32_to_bf16(value));
  return values;
}

kernels::PackedConv WeightReader::conv(const std::string& name, const kernels::ConvGeometry& geometry, int rank) const {
  std::vector<int64_t> shape{geometry.out_channels, geometry.in_channels, geometry.kernel_h, geometry.kernel_w};
  if (rank == 5) shape.insert(shape.begin() + 2, 1);
  const std::vector<float> weights = read(name + ".weight", shape);
  const std::vector<float> bias = read(name + ".bias", {geometry.out_channels});
  return {geometry, weights.data(), bias.data(), format_.block, format_.products};
}

CausalTaps WeightReader::causal(const std::string& name, int64_t in, int64_t out, int64_t kernel, int64_t first_out,
                                int64_t all_out) const {
  if (all_out == 0) all_out = out;
  const std::vector<float> weights = read(name + ".weight", {all_out, in, kCausalTaps, kernel, kernel});
  const std::vector<float> bias = read(name + ".bias", {all_out});
  const auto geometry = kernels::ConvGeometry::same(in, out, kernel);
  const int64_t area = kernel * kernel;
  std::vector<float> tap(static_cast<size_t>(geometry.weight_count()));
  CausalTaps taps;
  for (int64_t t = 0; t < kCausalTaps; ++t) {
    for (int64_t pair = 0; pair < out * in; ++pair)  // (out, in) pairs
      std::copy_n(weights.data() + ((first_out * in + pair) * kCausalTaps + t) * area, area, tap.data() + pair * area);
    const bool newest = t + 1 == kCausalTaps;
    taps[static_cast<size_t>(t)] = {geometry, tap.data(), newest ? bias.data() + first_out : nullptr, format_.block,
                                    format_.products};
  }
  return taps;
}

kernels::PackedWinograd WeightReader::winograd(const std::string& name, const kernels::WinogradGeometry& geometry) const {
  std::vector<int64_t> shape{geometry.out_channels, geometry.in_channels, 3, 3};
  if (geometry.form == kernels::WinogradForm::kSame) shape.insert(shape.begin() + 2, geometry.frames);
  const std::vector<float> weights = read_exact(name + ".weight", shape);
  const std::vector<float> bias = read(name + ".bias", {geometry.out_channels});
  return {geometry, weights.data(), bias.data()};
}

std::vector<float> WeightReader::gamma(const std::string& name, int64_t channels, int rank) const {
  std::vector<int64_t> shape(static_cast<size_t>(rank), 1);
  shape[0] = channels;
  std::vector<float> values = read(name + ".gamma", shape);
  values.resize(static_cast<size_t>((channels + format_.block - 1) / format_.block * format_.block), 0.0F);
  return values;
}

}  // namespace sla2::vae
