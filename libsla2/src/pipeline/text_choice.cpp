// SPDX-License-Identifier: Apache-2.0
#include "pipeline/text_choice.h"

#include <algorithm>

namespace sla2::pipeline {

const char* text_where(bool on_gpu) noexcept { return on_gpu ? "the GPU, layers streamed through two places" : "the CPU"; }

TextPlan plan_text(const ModelParts& model, const Settings& settings, int64_t tokens, const GpuPlan& dit, uint64_t host_limit) {
  TextPlan plan;
  const std::vector<int64_t> prompts(settings.guided() ? 2 : 1, tokens);
  plan.host_bytes = text::Umt5Encoder::create(model.text_encoder)->working_bytes(prompts);
  if (settings.gpu == nullptr) return plan;
  if (dit.rung == Rung::kCpu && settings.values.text("device") == "auto") return plan;
  device::Gpu& gpu = *settings.gpu;
  plan.free_bytes = gpu.memory().free;
  const auto no = [&](const std::string& why) {
    plan.notes.push_back(fmt::format("{}: the text encoder runs on the CPU: {}", gpu.info().name, why));
    return plan;
  };
  text::GpuEncoderPlan needed;
  try {
    needed = text::plan_on(gpu, model.encoder_config, prompts);
  } catch (const Error& error) {
    if (error.status() != SLA2_E_UNSUPPORTED) throw;
    return no(error.what());
  }
  const uint64_t usable = usable_bytes(plan.free_bytes);
  if (needed.device_bytes > usable)
    return no(fmt::format("it needs {:.0f} MiB and {:.0f} MiB of {:.0f} MiB free may be used", mebi(needed.device_bytes),
                          mebi(usable), mebi(plan.free_bytes)));
  if (needed.pinned_bytes > host_limit)
    return no(fmt::format("it needs {:.0f} MiB of this machine's memory, which has {:.0f} MiB for the job",
                          mebi(needed.pinned_bytes), mebi(host_limit)));
  plan.on_gpu = true;
  plan.planned_bytes = needed.device_bytes;
  plan.host_bytes = std::max(plan.host_bytes, needed.pinned_bytes);
  plan.text = needed.text;
  return plan;
}

}  // namespace sla2::pipeline
