// SPDX-License-Identifier: Apache-2.0
// Where the diffusion transformer runs: which GPU, and how it lies there. When memory does not do, it gives way in a fixed order,
// each time saying so: all weights on the GPU; blocks through three places; through two; the CPU.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "device/device.h"
#include "pipeline/model.h"
#include "pipeline/settings.h"

namespace sla2::pipeline {

/// 2^20 bytes, as people are told of memory.
[[nodiscard]] constexpr double mebi(uint64_t bytes) { return static_cast<double>(bytes) / (1024.0 * 1024.0); }

/// Of a GPU's free memory, what a plan may use: kernels' modules and the driver's own needs take some of it.
[[nodiscard]] constexpr uint64_t usable_bytes(uint64_t free) {
  constexpr double kUsable = 0.95;
  return static_cast<uint64_t>(kUsable * static_cast<double>(free));
}

enum class Rung : uint8_t { kResident, kThreePlaces, kTwoPlaces, kCpu };
inline constexpr Rung kGpuRungs[] = {Rung::kResident, Rung::kThreePlaces, Rung::kTwoPlaces};
[[nodiscard]] int weight_slots(Rung rung) noexcept;  ///< as dit::Options has them
[[nodiscard]] std::string_view rung_text(Rung rung) noexcept;

/// Null: the CPU. `word`: cpu, auto, cuda or cuda:N. `stand_in` (tests) takes the place of every GPU. Throws ARGUMENT for other
/// words, DEVICE where cuda is asked for and cannot be had; auto then says why in `notes`.
[[nodiscard]] device::Gpu* choose_gpu(const std::string& word, device::Gpu* stand_in, std::vector<std::string>& notes);

/// What the DiT is on a GPU.
struct GpuPlan {
  Rung rung = Rung::kCpu;
  uint64_t planned_bytes = 0, free_bytes = 0;  ///< on the GPU, of the rung
  uint64_t pinned_bytes = 0;                   ///< of this machine
  std::string text;                            ///< one line per buffer
  std::vector<std::string> notes;
};
/// The first rung whose plan fits what is free; where the GPU's kernels do not do and nobody insisted on it, the CPU.
[[nodiscard]] GpuPlan plan_gpu(const ModelParts& model, const Settings& settings, int64_t tokens);
/// Options of the DiT of this job on a rung.
[[nodiscard]] dit::Options dit_options(const Settings& settings, Rung rung);

}  // namespace sla2::pipeline
