// SPDX-License-Identifier: Apache-2.0
// The decoder's weights on a GPU: where each block's tensors lie, from the configuration alone, and what is put there.
#pragma once
#include <string>
#include <vector>

#include "device/device.h"
#include "vae/blocks.h"
#include "weights/weights.h"

namespace sla2::vae {

/// A convolution's tensor: [out, in, frames, side, side] in the file, [frames, side², out, in] in bf16 on the GPU.
struct ConvPlace {
  std::string name;
  int64_t in = 0, out = 0;  ///< out: of the kernel, a multiple of 8; rows beyond the file's are zeros
  int64_t rows = 0;         ///< the file's
  int frames = 1, side = 1;
  bool flat = false;  ///< the file's tensor has no axis of time
  size_t weight = 0, bias = 0;
};
struct GammaPlace {
  std::string name;
  int64_t channels = 0;
  int rank = 4;
  size_t values = 0;
};

/// Tensors of a block, in the order its stage uses them: the convolutions of a residual block and its shortcut; q, k, v and the
/// projection of attention; space, then time, of an upsampling.
struct GpuBlock {
  BlockSpec spec;
  std::vector<ConvPlace> convs;
  std::vector<GammaPlace> gammas;
};

class GpuPlaces {
 public:
  /// Throws UNSUPPORTED where channels are not what the kernels read.
  explicit GpuPlaces(const config::VaeConfig& config);
  [[nodiscard]] const std::vector<GpuBlock>& blocks() const noexcept { return blocks_; }
  [[nodiscard]] uint64_t bytes() const noexcept { return memory_.total_bytes(); }

  void load(device::Gpu& gpu, const weights::Checkpoint& checkpoint, std::byte* target, const CancelToken& cancel) const;

  [[nodiscard]] device::ConvWeight conv(const ConvPlace& place, const std::byte* base) const;
  [[nodiscard]] device::LinearWeight linear(const ConvPlace& place, const std::byte* base) const;  ///< of one tap
  [[nodiscard]] const float* gamma(const GammaPlace& place, const std::byte* base) const;

 private:
  ConvPlace place(const std::string& name, int64_t in, int64_t out, int frames, int side, bool flat = false);
  GammaPlace place_gamma(const std::string& name, int64_t channels, int rank);
  GpuBlock block_of(const BlockSpec& spec);
  std::vector<GpuBlock> blocks_;
  MemoryPlan memory_;
};

}  // namespace sla2::vae
