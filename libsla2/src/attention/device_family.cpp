// SPDX-License-Identifier: Apache-2.0
// Which family of attention kernels a plan on a GPU takes.
#include <cstdlib>
#include <string_view>

#include "attention/device_plan.h"
#include "kernels/cuda/hopper_tiles.h"

namespace sla2::attention {

std::optional<DeviceFamily> hopper_family(const Geometry& g, const DeviceShape& s, int architecture) {
  constexpr int kHopper = 90;
  const char* const wanted = std::getenv("SLA2_HOPPER");
  const bool refused = wanted != nullptr && std::string_view(wanted) == "0";
  const bool fits = s.width == cuda::kHopperWidth && g.block_q == cuda::kHopperQueries && s.blocks_per_tile == 1;
  if (architecture != kHopper || refused || !fits || s.fp8 || g.mode == Mode::kSla1) return std::nullopt;
  return DeviceFamily{fmt::format("sla2_hopper_{}_128{}", s.int8 ? "int8" : "bf16", s.linear ? "_linear" : ""),
                      cuda::kHopperThreads, cuda::hopper_map(s.linear).bytes};
}

}  // namespace sla2::attention
