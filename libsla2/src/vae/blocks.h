// SPDX-License-Identifier: Apache-2.0
// The order of Wan-VAE's blocks, from the configuration alone. Loading, running and planning walk the same two lists.
// Names are those of the original checkpoints; K of encoder.downsamples.K and decoder.upsamples.K counts blocks over all levels.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "config/model_config.h"

namespace sla2::vae {

enum class BlockKind : uint8_t {
  kPointwise,  ///< conv1, conv2: 1x1x1
  kInput,      ///< encoder.conv1, decoder.conv1: causal 3x3x3
  kResidual,
  kAttention,
  kUpsample2d,
  kUpsample3d,
  kDownsample2d,
  kDownsample3d,
  kHead,  ///< norm, SiLU, causal 3x3x3
};

struct BlockSpec {
  BlockKind kind;
  std::string name;
  int64_t in = 0, out = 0;  ///< channels
  /// Size of the frames that enter, as a fraction of the network's input (latent for the decoder, video for the encoder).
  int64_t numerator = 1, denominator = 1;
};

std::vector<BlockSpec> decoder_blocks(const config::VaeConfig& config);
std::vector<BlockSpec> encoder_blocks(const config::VaeConfig& config);

/// Pixels per latent pixel along one axis, frames per latent frame.
int64_t spatial_factor(const config::VaeConfig& config);
int64_t temporal_factor(const config::VaeConfig& config);

constexpr int64_t kVideoChannels = 3;

/// 2^20 bytes, as plans tell of memory.
constexpr double mebi(uint64_t bytes) { return static_cast<double>(bytes) / (1024.0 * 1024.0); }

}  // namespace sla2::vae
