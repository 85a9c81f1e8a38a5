// SPDX-License-Identifier: Apache-2.0
// The memory plan of a job, from configurations alone, held against what there is before anything heavy is loaded.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "pipeline/decode_choice.h"
#include "pipeline/device_choice.h"
#include "pipeline/model.h"
#include "pipeline/settings.h"
#include "pipeline/text_choice.h"

namespace sla2::pipeline {

struct MemoryPlanSummary {
  uint64_t text_bytes = 0, sample_bytes = 0, decode_bytes = 0;  ///< peak of each phase; phases do not overlap
  uint64_t limit_bytes = 0;
  GpuPlan gpu;  ///< of the DiT
  TextPlan text_encoder;
  DecodePlan decode;     ///< of the VAE, and where it runs
  int64_t vae_tile = 0;  ///< pixels, on the CPU; differs from the setting if only tiles fit
  std::string text;      ///< one line per buffer, for people
  std::vector<std::string> notes;
  [[nodiscard]] uint64_t peak_bytes() const noexcept;
};

/// Throws MEMORY with the plan and concrete remedies if the job does not fit.
/// Decoding falls back to tiles when only that makes it fit; `notes` says so. `tokens`: of the longer prompt.
MemoryPlanSummary check_memory(const ModelParts& model, const Settings& settings, int64_t tokens);

}  // namespace sla2::pipeline
