// SPDX-License-Identifier: Apache-2.0
// Where the VAE decodes. A GPU takes whole frames, or tiles where its memory does not do for those; then the CPU, whole frames or
// tiles likewise, each time saying so. The DiT's memory has been given back by then.
#pragma once
#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "pipeline/model.h"
#include "pipeline/settings.h"

namespace sla2::pipeline {

/// Tiles tried in this order when whole frames do not fit; diffusers' own default is 256.
inline constexpr std::array<int64_t, 5> kTiles{512, 384, 256, 192, 128};

struct DecodePlan {
  bool on_gpu = false;
  int64_t tile = 0;                            ///< pixels; 0: whole frames
  uint64_t planned_bytes = 0, free_bytes = 0;  ///< on the GPU
  uint64_t pinned_bytes = 0;                   ///< of this machine
  std::string text;                            ///< one line per buffer
  std::vector<std::string> notes;
};

/// How a job decodes with tiles of that many pixels (0: none). Small tiles overlap by half.
[[nodiscard]] vae::DecodeOptions decode_options(vae::Precision precision, int64_t tile);

/// The first that fits what is free; where the GPU does not do this VAE or this setting, the CPU.
[[nodiscard]] DecodePlan plan_gpu_decode(const ModelParts& model, const Settings& settings);
/// What follows where `from` did not do after all: smaller tiles on the GPU; the CPU, beginning with `cpu_tile`; smaller tiles on
/// the CPU; nothing.
[[nodiscard]] std::optional<DecodePlan> next_decode(const ModelParts& model, const Settings& settings, const DecodePlan& from,
                                                    int64_t cpu_tile);
[[nodiscard]] std::string decode_where(const DecodePlan& plan);

}  // namespace sla2::pipeline
