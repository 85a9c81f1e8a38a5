// SPDX-License-Identifier: Apache-2.0
// The door of video: decoded numbers to RGB bytes, latents to rough previews.
#pragma once
#include <cstdint>
#include <vector>

#include "latent/latent.h"
#include "vae/vae.h"

namespace sla2::video {

/// [count,3,H,W] in [-1,1] to [count,H,W,3] bytes: round((x/2 + 0.5) * 255), clamped. Throws NUMERIC on NaN.
void frames_to_rgb(const vae::FrameChunk& chunk, std::vector<uint8_t>& rgb);

/// Linear latent -> RGB preview of every latent frame at latent size, [F', h, w, 3]. `latent` is the predicted x0 in the
/// normalised space. For 16 channels of the public Wan-VAE the published factors are used; other models bring their own
/// (config key "latent_rgb_factors"), else a neutral projection.
void preview_rgb(const latent::Latent& x0, const std::vector<float>& factors /*[C*3 + 3], may be empty*/,
                 std::vector<uint8_t>& rgb);

}  // namespace sla2::video
