// SPDX-License-Identifier: Apache-2.0
// Block lists of the encoder and the decoder (wan 2.1; no residual up and down blocks as in 2.2).
#include "vae/blocks.h"

#include <algorithm>

#include "core/core.h"

namespace sla2::vae {

namespace {

/// Appends blocks and keeps the channel count and frame size of the chain.
class Chain {
 public:
  Chain(std::string prefix, std::string list) : prefix_(std::move(prefix)), list_(std::move(list)) {}
  void add(BlockKind kind, const std::string& name, int64_t in, int64_t out) {
    blocks_.push_back({kind, name.empty() ? prefix_ : prefix_ + name, in, out, numerator_, denominator_});
    if (kind == BlockKind::kUpsample2d || kind == BlockKind::kUpsample3d) numerator_ *= 2;
    if (kind == BlockKind::kDownsample2d || kind == BlockKind::kDownsample3d) denominator_ *= 2;
  }
  void add_listed(BlockKind kind, int64_t in, int64_t out) { add(kind, list_ + std::to_string(next_++), in, out); }
  void add_middle(int64_t channels) {
    add(BlockKind::kResidual, "middle.0", channels, channels);
    add(BlockKind::kAttention, "middle.1", channels, channels);
    add(BlockKind::kResidual, "middle.2", channels, channels);
  }
  void add_top(const char* name, int64_t in, int64_t out) {
    blocks_.push_back({BlockKind::kPointwise, name, in, out, numerator_, denominator_});
  }
  std::vector<BlockSpec> take() { return std::move(blocks_); }

 private:
  std::string prefix_, list_;
  std::vector<BlockSpec> blocks_;
  int64_t next_ = 0, numerator_ = 1, denominator_ = 1;
};

void check(const config::VaeConfig& config) {
  SLA2_CHECK(!config.dim_mult.empty() && config.temporal_downsample.size() + 1 >= config.dim_mult.size(), SLA2_E_MODEL_MISMATCH,
             "VAE configuration: {} levels need {} temporal_downsample entries, got {}", config.dim_mult.size(),
             config.dim_mult.empty() ? 0 : config.dim_mult.size() - 1, config.temporal_downsample.size());
}

}  // namespace

std::vector<BlockSpec> decoder_blocks(const config::VaeConfig& config) {
  check(config);
  const size_t levels = config.dim_mult.size();
  Chain chain("decoder.", "upsamples.");
  chain.add_top("conv2", config.z_dim, config.z_dim);
  int64_t channels = config.decoder_base_dim * config.dim_mult.back();
  chain.add(BlockKind::kInput, "conv1", config.z_dim, channels);
  chain.add_middle(channels);
  for (size_t level = 0; level < levels; ++level) {
    const int64_t width = config.decoder_base_dim * config.dim_mult[levels - 1 - level];
    for (int64_t block = 0; block <= config.res_blocks; ++block) {
      chain.add_listed(BlockKind::kResidual, channels, width);
      channels = width;
    }
    if (level + 1 == levels) break;
    const bool in_time = config.temporal_downsample[levels - 2 - level];  // the encoder's list, backwards
    chain.add_listed(in_time ? BlockKind::kUpsample3d : BlockKind::kUpsample2d, channels, channels / 2);
    channels /= 2;
  }
  chain.add(BlockKind::kHead, "head", channels, kVideoChannels);
  return chain.take();
}

std::vector<BlockSpec> encoder_blocks(const config::VaeConfig& config) {
  check(config);
  const size_t levels = config.dim_mult.size();
  Chain chain("encoder.", "downsamples.");
  int64_t channels = config.base_dim;
  chain.add(BlockKind::kInput, "conv1", kVideoChannels, channels);
  for (size_t level = 0; level < levels; ++level) {
    const int64_t width = config.base_dim * config.dim_mult[level];
    for (int64_t block = 0; block < config.res_blocks; ++block) {
      chain.add_listed(BlockKind::kResidual, channels, width);
      channels = width;
    }
    if (level + 1 == levels) break;
    chain.add_listed(config.temporal_downsample[level] ? BlockKind::kDownsample3d : BlockKind::kDownsample2d, channels, channels);
  }
  chain.add_middle(channels);
  chain.add(BlockKind::kHead, "head", channels, 2 * config.z_dim);
  chain.add_top("conv1", 2 * config.z_dim, 2 * config.z_dim);
  return chain.take();
}

int64_t spatial_factor(const config::VaeConfig& config) { return int64_t{1} << (config.dim_mult.size() - 1); }

int64_t temporal_factor(const config::VaeConfig& config) {
  const auto used = config.temporal_downsample.begin() + static_cast<std::ptrdiff_t>(config.dim_mult.size() - 1);
  return int64_t{1} << std::count(config.temporal_downsample.begin(), used, true);
}

}  // namespace sla2::vae
