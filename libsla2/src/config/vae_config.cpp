// SPDX-License-Identifier: Apache-2.0
// Sizes of a Wan2.1 VAE, from the flat list encoder.downsamples.K: per level `res_blocks` residual blocks and, except after the
// last level, one downsample (with time_conv where it also halves time). The decoder mirrors it with one block more per level.
#include <algorithm>
#include <array>
#include <cmath>

#include "config/config_json.h"
#include "config/model_config.h"

namespace sla2::config {
namespace {

using weights::Checkpoint;
using weights::ExpectedTensor;
using Keys = std::vector<std::string_view>;

constexpr std::array<std::string_view, 1> kVaeClasses{"AutoencoderKLWan"};
constexpr int64_t kPublishedChannels = 16, kPublishedBase = 96;
constexpr int64_t kPixelChannels = 3;
// Latent statistics of the public Wan2.1 VAE (wan/modules/vae.py, WanVAE).
constexpr std::array<float, kPublishedChannels> kPublishedMean{-0.7571F, -0.7089F, -0.9113F, 0.1075F,  -0.1745F, 0.9653F,
                                                               -0.1517F, 1.5508F,  0.4134F,  -0.0715F, 0.5517F,  -0.3632F,
                                                               -0.1922F, -0.9497F, 0.2503F,  -0.2921F};
constexpr std::array<float, kPublishedChannels> kPublishedStd{2.8184F, 1.4541F, 2.3275F, 2.6558F, 1.2196F, 1.7708F,
                                                              2.6052F, 2.0743F, 3.2687F, 2.1526F, 2.8652F, 1.5579F,
                                                              1.6382F, 1.1253F, 2.8251F, 1.9160F};

/// Levels, widths and time factors of the encoder.
void read_levels(const Checkpoint& checkpoint, VaeConfig& c) {
  c.dim_mult.clear();
  c.temporal_downsample.clear();
  int64_t blocks = 0, width = c.base_dim;
  c.res_blocks = 0;
  const auto close_level = [&](int64_t at) {
    if (c.res_blocks == 0) c.res_blocks = blocks;
    SLA2_CHECK(
        blocks > 0 && blocks == c.res_blocks && width % c.base_dim == 0, SLA2_E_FILE_FORMAT,
        "{}: encoder.downsamples before {}: expected {} residual blocks and a multiple of width {}, got {} blocks of width {}",
        checkpoint.path(), at, c.res_blocks, c.base_dim, blocks, width);
    c.dim_mult.push_back(width / c.base_dim);
    blocks = 0;
  };
  int64_t at = 0;
  for (;; ++at) {
    const std::string block = fmt::format("encoder.downsamples.{}.", at);
    SLA2_CHECK(!checkpoint.has(block + "to_qkv.weight"), SLA2_E_UNSUPPORTED,
               "{}: attention inside encoder levels ({}), which no published Wan-VAE has", checkpoint.path(), block);
    if (checkpoint.has(block + "residual.2.weight")) {
      width = extent(checkpoint, block + "residual.2.weight", 5, 0);
      ++blocks;
    } else if (checkpoint.has(block + "resample.1.weight")) {
      close_level(at);
      c.temporal_downsample.push_back(checkpoint.has(block + "time_conv.weight"));
    } else {
      break;
    }
  }
  close_level(at);
}

class TensorList {
 public:
  void conv(const std::string& name, std::vector<int64_t> shape) {
    const int64_t out = shape.front();
    list_.push_back({name + ".weight", std::move(shape)});
    list_.push_back({name + ".bias", {out}});
  }
  void residual(const std::string& name, int64_t in, int64_t out) {
    list_.push_back({name + ".residual.0.gamma", {in}});
    conv(name + ".residual.2", {out, in, 3, 3, 3});
    list_.push_back({name + ".residual.3.gamma", {out}});
    conv(name + ".residual.6", {out, out, 3, 3, 3});
    if (in != out) conv(name + ".shortcut", {out, in, 1, 1, 1});
  }
  void middle(const std::string& side, int64_t width) {
    residual(side + "middle.0", width, width);
    list_.push_back({side + "middle.1.norm.gamma", {width}});
    conv(side + "middle.1.to_qkv", {3 * width, width, 1, 1});
    conv(side + "middle.1.proj", {width, width, 1, 1});
    residual(side + "middle.2", width, width);
  }
  void head(const std::string& side, int64_t width, int64_t out) {
    list_.push_back({side + "head.0.gamma", {width}});
    conv(side + "head.2", {out, width, 3, 3, 3});
  }
  [[nodiscard]] const std::vector<ExpectedTensor>& list() const { return list_; }

 private:
  std::vector<ExpectedTensor> list_;
};

void add_encoder(TensorList& tensors, const VaeConfig& c) {
  const auto levels = static_cast<int64_t>(c.dim_mult.size());
  tensors.conv("encoder.conv1", {c.base_dim, kPixelChannels, 3, 3, 3});
  int64_t width = c.base_dim, at = 0;
  for (int64_t level = 0; level < levels; ++level) {
    const int64_t out = c.base_dim * c.dim_mult[static_cast<size_t>(level)];
    for (int64_t i = 0; i < c.res_blocks; ++i, width = out)
      tensors.residual(fmt::format("encoder.downsamples.{}", at++), width, out);
    if (level + 1 == levels) break;
    const std::string down = fmt::format("encoder.downsamples.{}", at++);
    tensors.conv(down + ".resample.1", {width, width, 3, 3});
    if (c.temporal_downsample[static_cast<size_t>(level)]) tensors.conv(down + ".time_conv", {width, width, 3, 1, 1});
  }
  tensors.middle("encoder.", width);
  tensors.head("encoder.", width, 2 * c.z_dim);  // mean and log-variance
  tensors.conv("conv1", {2 * c.z_dim, 2 * c.z_dim, 1, 1, 1});
}

void add_decoder(TensorList& tensors, const VaeConfig& c) {
  const auto levels = static_cast<int64_t>(c.dim_mult.size());
  int64_t width = c.decoder_base_dim * c.dim_mult.back(), at = 0;
  tensors.conv("conv2", {c.z_dim, c.z_dim, 1, 1, 1});
  tensors.conv("decoder.conv1", {width, c.z_dim, 3, 3, 3});
  tensors.middle("decoder.", width);
  for (int64_t level = 0; level < levels; ++level) {
    const int64_t out = c.decoder_base_dim * c.dim_mult[static_cast<size_t>(levels - 1 - level)];
    for (int64_t i = 0; i <= c.res_blocks; ++i, width = out)
      tensors.residual(fmt::format("decoder.upsamples.{}", at++), width, out);
    if (level + 1 == levels) break;
    const std::string up = fmt::format("decoder.upsamples.{}", at++);
    tensors.conv(up + ".resample.1", {width / 2, width, 3, 3});
    if (c.temporal_downsample[static_cast<size_t>(levels - 2 - level)])
      tensors.conv(up + ".time_conv", {2 * width, width, 3, 1, 1});
    width /= 2;
  }
  tensors.head("decoder.", width, kPixelChannels);
}

std::vector<float> read_statistic(const Checkpoint& checkpoint, const ConfigJson& json, const VaeConfig& c, std::string_view key,
                                  std::span<const float> published) {
  const auto list = json.numbers(key);
  if (!list) {
    SLA2_CHECK(c.z_dim == kPublishedChannels && c.base_dim == kPublishedBase, SLA2_E_FILE_FORMAT,
               "{}: a VAE of its own size ({} latent channels, base {}) needs '{}' in config.json beside it or in its metadata",
               checkpoint.path(), c.z_dim, c.base_dim, key);
    return {published.begin(), published.end()};
  }
  if (static_cast<int64_t>(list->size()) != c.z_dim) json.wrong(key, fmt::format("{} numbers, one per latent channel", c.z_dim));
  std::vector<float> values(list->begin(), list->end());
  if (!std::all_of(values.begin(), values.end(), [](float value) { return std::isfinite(value); }))
    json.wrong(key, "finite numbers");
  return values;
}

}  // namespace

VaeConfig read_vae_config(const Checkpoint& checkpoint) {
  expect_kind(checkpoint, weights::Kind::kWanVae, "a Wan2.1 VAE");
  const std::string& variant = checkpoint.identity().variant;
  SLA2_CHECK(variant == "full", SLA2_E_FILE_FORMAT, "{}: only the {} of a Wan-VAE; the whole VAE is needed", checkpoint.path(),
             variant);
  SLA2_CHECK(!checkpoint.has("decoder.upsamples.0.upsamples.0.residual.0.gamma"), SLA2_E_UNSUPPORTED,
             "{}: this is a Wan2.2 VAE; this version runs the Wan2.1 VAE (16 latent channels)", checkpoint.path());
  const ConfigJson json(checkpoint, kVaeClasses);

  VaeConfig c;
  c.base_dim = extent(checkpoint, "encoder.conv1.weight", 5, 0);
  c.z_dim = extent(checkpoint, "conv2.weight", 5, 0);
  read_levels(checkpoint, c);
  const auto& gamma = checkpoint.info("decoder.head.0.gamma").shape;
  const int64_t head = gamma.empty() ? 0 : gamma.front();
  SLA2_CHECK(head > 0 && head % c.dim_mult.front() == 0, SLA2_E_FILE_FORMAT,
             "{}: the decoder ends at width {}, no multiple of {}", checkpoint.path(), head, c.dim_mult.front());
  c.decoder_base_dim = head / c.dim_mult.front();

  json.agrees(Keys{"base_dim"}, c.base_dim);
  json.agrees(Keys{"decoder_base_dim"}, c.decoder_base_dim);
  json.agrees(Keys{"z_dim"}, c.z_dim);
  json.agrees(Keys{"num_res_blocks"}, c.res_blocks);
  json.agrees("dim_mult", c.dim_mult);
  json.agrees("temperal_downsample", {c.temporal_downsample.begin(), c.temporal_downsample.end()});  // diffusers' spelling
  TensorList tensors;
  add_encoder(tensors, c);
  add_decoder(tensors, c);
  check_tensors(checkpoint, tensors.list(), "Wan-VAE");

  c.latents_mean = read_statistic(checkpoint, json, c, "latents_mean", kPublishedMean);
  c.latents_std = read_statistic(checkpoint, json, c, "latents_std", kPublishedStd);
  if (std::any_of(c.latents_std.begin(), c.latents_std.end(), [](float value) { return value <= 0; })) {
    json.wrong("latents_std", "positive numbers");
  }
  return c;
}

}  // namespace sla2::config
