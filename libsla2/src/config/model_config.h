// SPDX-License-Identifier: Apache-2.0
// Sizes of the three networks, read from tensor shapes; what shapes cannot tell (head_dim of a small model, latent
// statistics) comes from the configuration JSON stored with the weights.
#pragma once
#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "weights/weights.h"

namespace sla2::config {

struct DitConfig {
  int64_t dim = 0, heads = 0, head_dim = 128, layers = 0, ffn_dim = 0;
  int64_t in_channels = 16, out_channels = 16, text_dim = 4096, text_len = 512, freq_dim = 256;
  bool cross_attn_norm = true, image_branch = false;
  double eps = 1e-6;
  int64_t rope_max = 1024;
};

struct VaeConfig {
  int64_t base_dim = 96, decoder_base_dim = 96, z_dim = 16, res_blocks = 2;
  std::vector<int64_t> dim_mult{1, 2, 4, 4};
  std::vector<bool> temporal_downsample{false, true, true};
  std::vector<float> latents_mean, latents_std;  ///< z_dim values
};

/// Throws MODEL_MISMATCH if the file is something else (saying what it is), FILE_FORMAT if tensors are missing,
/// UNSUPPORTED for variants this version cannot run (image-to-video, VACE), naming them.
DitConfig read_dit_config(const weights::Checkpoint& checkpoint);
VaeConfig read_vae_config(const weights::Checkpoint& checkpoint);

}  // namespace sla2::config
