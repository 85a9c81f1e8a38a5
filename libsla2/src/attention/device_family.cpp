// SPDX-License-Identifier: Apache-2.0
// Which family of attention kernels a plan on a GPU takes.
#include <cstdlib>
#include <string_view>

#include "attention/device_plan.h"
#include "kernels/cuda/hopper_tiles.h"

namespace sla2::attention {

bool hopper_takes(const Config& c, int architecture) {
  constexpr int kHopper = 90;
  const char* const wanted = std::getenv("SLA2_HOPPER");
  if (architecture != kHopper || (wanted != nullptr && std::string_view(wanted) == "0")) return false;
  if (c.head_dim <= cuda::kHopperWidth / 2 || c.head_dim > cuda::kHopperWidth) return false;
  if (c.mode == Mode::kFull) return true;  // its blocks are its own
  return c.mode != Mode::kSla1 && c.mode != Mode::kPooled && c.tau <= 0 && c.block_q == cuda::kHopperQueries &&
         c.block_k >= cuda::kTileKeys;
}

bool sums_in_fp16(const Config& c, int architecture) {
  const char* const wanted = std::getenv("SLA2_FP8_SUMS");
  return c.fp8_values && multiplies_e4m3(architecture) && (wanted == nullptr || std::string_view(wanted) != "32");
}

std::optional<DeviceFamily> hopper_family(const Geometry& g, const DeviceShape& s, int architecture) {
  if (!hopper_takes(g.config, architecture)) return std::nullopt;
  const char* const products = s.fp8 ? "fp8" : s.int8 ? "int8" : "bf16";
  const std::string full = fmt::format("sla2_hopper_{}_128", products);
  return DeviceFamily{s.linear ? full + "_linear" : full, full, cuda::kHopperThreads, cuda::hopper_map(s.linear).bytes,
                      cuda::hopper_map(false).bytes};
}

}  // namespace sla2::attention
