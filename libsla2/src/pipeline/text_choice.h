// SPDX-License-Identifier: Apache-2.0
// Where the text encoder runs: on the GPU of the job through two places, before the diffusion transformer is loaded; else the
// CPU.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "pipeline/device_choice.h"
#include "pipeline/model.h"
#include "pipeline/settings.h"

namespace sla2::pipeline {

struct TextPlan {
  bool on_gpu = false;
  uint64_t planned_bytes = 0, free_bytes = 0;  ///< on the GPU
  uint64_t host_bytes = 0;                     ///< of this machine, should the CPU have to take over too
  std::string text;                            ///< one line per buffer, for people
  std::vector<std::string> notes;              ///< why not, where a GPU was to be had
};

/// The GPU where the plan fits what is free there and its pinned memory fits `host_limit`; else the CPU, with a note. Where
/// `device` is auto and the diffusion transformer is on the CPU, so is the whole job. `tokens`: of the longer prompt.
[[nodiscard]] TextPlan plan_text(const ModelParts& model, const Settings& settings, int64_t tokens, const GpuPlan& dit,
                                 uint64_t host_limit);

[[nodiscard]] const char* text_where(bool on_gpu) noexcept;

}  // namespace sla2::pipeline
