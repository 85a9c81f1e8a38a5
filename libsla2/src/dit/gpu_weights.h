// SPDX-License-Identifier: Apache-2.0
// Weights on a GPU. A block's tensors lie in one stretch, the same way in every layer, so that a block is moved by one copy; what
// belongs to no block stays on the GPU.
#pragma once
#include <vector>

#include "device/device.h"
#include "dit/loader.h"

namespace sla2::dit {

/// Where a Linear lies.
struct LinearPlace {
  uint64_t weight = 0, scale = 0, bias = 0, bias16 = 0;  ///< bias16: bf16, for cuBLASLt; not with 8 bits
  int64_t in = 0, out = 0;
  bool eight_bits = false;
  LinearPlace() = default;
  LinearPlace(device::Stretch& stretch, const LinearSpec& spec, const Holding& holding);
  [[nodiscard]] device::LinearWeight on(const std::byte* base) const;
};
/// Read into this machine's memory as the GPU will have it. 8 bits: scale · steps for each output, scale = largest / 127.
void read_linear(const Loader& loader, const LinearSpec& spec, const LinearPlace& place, std::byte* base);

struct BlockPlaces {
  LinearPlace qkv, self_out, cross_query, cross_out, ffn_in, ffn_out;
  uint64_t norm_q = 0, norm_k = 0, cross_norm_q = 0, norm3_weight = 0, norm3_bias = 0;
  uint64_t bytes = 0;
  BlockPlaces(const config::DitConfig& config, const Holding& holding);
};
void read_block(const Loader& loader, const config::DitConfig& config, int64_t layer, const BlockPlaces& places, std::byte* base);

struct FixedPlaces {
  LinearPlace patch, time_in, time_out, time_projection, head;
  uint64_t modulation = 0, head_modulation = 0;  ///< [layers, 6, dim], [2, dim]
  uint64_t bytes = 0;
  FixedPlaces(const config::DitConfig& config, const Holding& holding);
};
void read_fixed(const Loader& loader, const config::DitConfig& config, const FixedPlaces& places, std::byte* base);

}  // namespace sla2::dit
