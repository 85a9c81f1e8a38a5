// SPDX-License-Identifier: Apache-2.0
#include "pipeline/device_choice.h"

#include <charconv>

namespace sla2::pipeline {

namespace {

constexpr std::string_view kCuda = "cuda";

int gpu_number(const std::string& word) {
  if (word == kCuda) return 0;
  int number = -1;
  const char* const end = word.data() + word.size();
  if (word.starts_with("cuda:") && word.size() > kCuda.size() + 1) {
    const auto read = std::from_chars(word.data() + kCuda.size() + 1, end, number);
    if (read.ec != std::errc() || read.ptr != end) number = -1;
  }
  SLA2_CHECK(number >= 0, SLA2_E_ARGUMENT, "device is \"{}\"; expected cpu, auto, cuda, or cuda:N with the number of a GPU",
             word);
  return number;
}

/// This machine's memory: whole blocks lie pinned where they stream; one passes through where they stay on the GPU.
uint64_t pinned_bytes(const ModelParts& model, const dit::PlanSummary& resident, Rung rung) {
  const uint64_t blocks = resident.weight_bytes;
  return weight_slots(rung) > 0 ? blocks : blocks / static_cast<uint64_t>(std::max<int64_t>(model.dit_config.layers, 1));
}

}  // namespace

int weight_slots(Rung rung) noexcept {
  constexpr int kThree = 3, kTwo = 2;
  return rung == Rung::kThreePlaces ? kThree : rung == Rung::kTwoPlaces ? kTwo : 0;
}

std::string_view rung_text(Rung rung) noexcept {
  switch (rung) {
    case Rung::kResident: return "all weights on the GPU";
    case Rung::kThreePlaces: return "weights streamed through three places on the GPU";
    case Rung::kTwoPlaces: return "weights streamed through two places on the GPU";
    default: return "the CPU";
  }
}

device::Gpu* choose_gpu(const std::string& word, device::Gpu* stand_in, std::vector<std::string>& notes) {
  if (word == "cpu") return nullptr;
  if (word == "auto") {
    if (stand_in != nullptr) return stand_in;
    const device::Report& report = device::report();
    if (report.missing.empty()) return &device::Gpu::get(0);
    if (report.driver_found) notes.push_back(fmt::format("device auto: the CPU, because {}", report.missing));
    return nullptr;
  }
  const int number = gpu_number(word);
  if (stand_in != nullptr) return stand_in;
  const device::Report& report = device::report();
  SLA2_CHECK(report.missing.empty(), SLA2_E_DEVICE, "device is {}, but {}; set device to cpu", word, report.missing);
  return &device::Gpu::get(number);
}

dit::Options dit_options(const Settings& settings, Rung rung) {
  dit::Options options;
  options.precision = settings.precision;
  options.linear_bits = settings.linear_bits;
  options.token_order = settings.attention.token_order;
  options.pack = settings.attention.pack;
  options.weight_slots = weight_slots(rung);
  return options;
}

GpuPlan plan_gpu(const ModelParts& model, const Settings& settings, int64_t tokens) {
  GpuPlan plan;
  if (settings.gpu == nullptr) return plan;
  device::Gpu& gpu = *settings.gpu;
  plan.free_bytes = gpu.memory().free;
  const uint64_t usable = usable_bytes(plan.free_bytes);
  const auto kinds = attention_kinds(settings.attention, settings.steps(), model.dit_config.layers);
  const int prompts = settings.guided() ? 2 : 1;
  try {
    dit::PlanSummary resident;
    for (const Rung rung : kGpuRungs) {
      const dit::PlanSummary needed =
          dit::plan_on(gpu, model.dit_config, settings.grid, tokens, dit_options(settings, rung), kinds, prompts);
      if (rung == Rung::kResident) resident = needed;
      if (needed.total() > usable) {
        plan.notes.push_back(fmt::format("{}: not {}: that needs {:.0f} MiB and {:.0f} MiB of {:.0f} MiB free may be used",
                                         gpu.info().name, rung_text(rung), mebi(needed.total()), mebi(usable),
                                         mebi(plan.free_bytes)));
        continue;
      }
      plan.rung = rung;
      plan.planned_bytes = needed.total();
      plan.pinned_bytes = pinned_bytes(model, resident, rung);
      plan.text = needed.text;
      break;
    }
  } catch (const Error& error) {
    const bool insisted = settings.values.text("device") != "auto";
    if (insisted || error.status() != SLA2_E_UNSUPPORTED) throw;
    plan.notes.push_back(fmt::format("device auto: the CPU, because {}", error.what()));
  }
  if (plan.rung == Rung::kCpu) plan.notes.emplace_back("the diffusion transformer runs on the CPU");
  return plan;
}

}  // namespace sla2::pipeline
