// SPDX-License-Identifier: Apache-2.0
// The door of latent: grid sizes, noise, video <-> tokens, RoPE positions.
#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "core/core.h"

namespace sla2::latent {

/// A latent video [C, F, H, W], fp32, contiguous.
struct Latent {
  int64_t channels = 0, frames = 0, height = 0, width = 0;
  std::vector<float> values;
  [[nodiscard]] int64_t size() const noexcept { return channels * frames * height * width; }
};

/// Token grid of the DiT: F' x H/2 x W/2 with patch (1,2,2); tokens in t, h, w order.
struct Grid {
  int64_t frames = 0, height = 0, width = 0;
  [[nodiscard]] int64_t tokens() const noexcept { return frames * height * width; }
};

/// Latent sizes of a clip: frames = 4k+1, width and height multiples of 16. Throws ARGUMENT with the nearest legal values.
Latent shape_for_video(int64_t channels, int64_t frames, int64_t height, int64_t width);
Grid grid_of(const Latent& latent);

/// The numbers torch.randn(count) gives on the CPU for a mt19937 generator with this seed, bit for bit where torch runs its
/// AVX2 code (its other code paths differ in the last bits). [C,F,H,W] order.
class NoiseSource {
 public:
  explicit NoiseSource(uint64_t seed);
  void fill_normal(std::span<float> target);
  [[nodiscard]] std::string save() const;  ///< text, for checkpoints
  void restore(const std::string& state);  ///< throws FILE_FORMAT

 private:
  void refill();
  uint32_t next();
  float next_uniform();
  double next_normal();  ///< the fp64 road torch takes for fewer than 16 numbers
  uint32_t state_[624];
  int index_ = 624;
  bool has_spare_ = false;
  double spare_ = 0;
};

/// Tokens [N, C*4], K order (c, pt, ph, pw) as patch_embedding expects.
void patchify(const Latent& latent, std::span<float> tokens);
/// Inverse for the head's output, [N, 64] in order (pt, ph, pw, c).
void unpatchify(std::span<const float> tokens, Latent& latent);

/// Three small tables (cos, sin per position and pair) for head_dim split t | h | w with d_h = d_w = 2*(d/6); built in fp64.
struct RopeTables {
  int64_t head_dim = 0, pairs_t = 0, pairs_h = 0, pairs_w = 0;
  std::vector<float> cos_t, sin_t, cos_h, sin_h, cos_w, sin_w;  ///< [positions, pairs]
};
RopeTables make_rope_tables(int64_t head_dim, const Grid& grid, double theta = 10000.0);

}  // namespace sla2::latent
