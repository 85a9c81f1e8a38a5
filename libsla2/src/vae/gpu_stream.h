// SPDX-License-Identifier: Apache-2.0
// One stream of frames through the decoder on a GPU, in the order of stage.h: depth first, one frame in flight. Everything is
// queued on one stream of the GPU; nothing waits and nothing is allocated.
#pragma once
#include <array>
#include <functional>
#include <map>
#include <vector>

#include "vae/gpu_layout.h"

namespace sla2::vae {

class GpuStream {
 public:
  struct Where {
    const GpuPlaces& places;
    const std::byte* weights;
    const GpuLayout& layout;
    std::byte* arena;
  };
  GpuStream(device::Gpu& gpu, device::Ops& ops, device::FrameOps& frames, const Where& where);
  /// Latent frame t of those in the layout. `target()`: the place of each finished frame [3, pixels].
  void push(int64_t t, const std::function<float*()>& target);

 private:
  using Frame = const uint16_t*;
  using Fill = std::function<void(uint16_t*)>;  ///< writes the newest frame
  struct Memory {                               ///< of one causal convolution: the last two frames, null before the first
    std::array<Frame, 2> past{};
  };
  struct State {
    std::array<Memory, 2> memories;
    bool begun = false;  ///< a temporal upsampling has had its first frame
  };

  template <typename T>
  [[nodiscard]] T* at(size_t place) const {
    return reinterpret_cast<T*>(where_.arena + where_.layout.memory.offset(place));
  }
  [[nodiscard]] const GpuBlock& block(size_t index) const { return where_.places.blocks()[index]; }
  [[nodiscard]] device::ConvWeight conv_of(const ConvPlace& p) const { return where_.places.conv(p, where_.weights); }
  [[nodiscard]] device::LinearWeight linear_of(const ConvPlace& p) const { return where_.places.linear(p, where_.weights); }
  [[nodiscard]] const float* gamma_of(const GammaPlace& p) const { return where_.places.gamma(p, where_.weights); }

  void causal(Memory& memory, const ConvPlace& place, const FrameKind& kind, const Fill& fill, device::ConvCall call);
  void run_from(size_t index);
  void residual(size_t index);
  void attention(size_t index);
  void upsample(size_t index);
  void head(size_t index);

  device::Gpu& gpu_;
  device::Ops& ops_;
  device::FrameOps& frames_;
  Where where_;
  std::map<FrameKind, std::vector<uint16_t*>> free_;
  std::vector<State> states_;
  const std::function<float*()>* target_ = nullptr;
};

}  // namespace sla2::vae
