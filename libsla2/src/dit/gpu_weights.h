// SPDX-License-Identifier: Apache-2.0
// Weights on a GPU. A block's tensors lie in one stretch, the same way in every layer, so that a block is moved by one copy; what
// belongs to no block stays on the GPU.
#pragma once
#include <vector>

#include "device/device.h"
#include "dit/loader.h"

namespace sla2::dit {

/// Hands out places in a stretch of memory, each on 256 bytes (what kernels and cuBLASLt like best).
class Stretch {
 public:
  uint64_t take(uint64_t bytes) {
    const uint64_t at = bytes_;
    constexpr uint64_t kStep = 256;
    bytes_ += (bytes + kStep - 1) / kStep * kStep;
    return at;
  }
  [[nodiscard]] uint64_t bytes() const noexcept { return bytes_; }

 private:
  uint64_t bytes_ = 0;
};

/// Where a Linear lies.
struct LinearPlace {
  uint64_t weight = 0, scale = 0, bias = 0, bias16 = 0;  ///< bias16: bf16, for cuBLASLt; not with 8 bits
  int64_t in = 0, out = 0;
  bool eight_bits = false;
  LinearPlace() = default;
  LinearPlace(Stretch& stretch, const LinearSpec& spec, const Holding& holding);
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

/// Blocks of weights for the compute stream, in the order of the layers, over and over.
class BlockStore {
 public:
  virtual ~BlockStore() = default;
  /// A pass begins with layer 0, whatever became of the last one.
  virtual void begin() = 0;
  /// The layer's stretch: work that is queued on the compute stream from here to done() may read it.
  virtual const std::byte* fetch(int64_t layer) = 0;
  virtual void done(int64_t layer) = 0;

  /// Every layer in its place. `fill` reads a layer into this machine's memory.
  using Fill = std::function<void(int64_t layer, std::byte* target)>;
  static std::unique_ptr<BlockStore> resident(device::Gpu& gpu, int64_t layers, uint64_t bytes, const Fill& fill);
  /// All layers in pinned memory, `slots` of them at a time on the GPU: the next ones come while one computes.
  static std::unique_ptr<BlockStore> streamed(device::Gpu& gpu, void* compute, int64_t layers, uint64_t bytes, int slots,
                                              const Fill& fill);
};

}  // namespace sla2::dit
