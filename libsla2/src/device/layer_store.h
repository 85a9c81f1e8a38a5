// SPDX-License-Identifier: Apache-2.0
// A network's weights on a GPU, layer by layer. A layer's tensors lie in one stretch, the same way in every layer, so that a
// layer is moved by one copy.
#pragma once
#include "device/device.h"

namespace sla2::device {

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

/// Layers of weights for the compute stream, in their order, over and over.
class LayerStore {
 public:
  virtual ~LayerStore() = default;
  /// A pass begins with layer 0, whatever became of the last one.
  virtual void begin() = 0;
  /// The layer's stretch: work that is queued on the compute stream from here to done() may read it.
  virtual const std::byte* fetch(int64_t layer) = 0;
  virtual void done(int64_t layer) = 0;

  /// Every layer in its place. `fill` reads a layer into this machine's memory.
  using Fill = std::function<void(int64_t layer, std::byte* target)>;
  static std::unique_ptr<LayerStore> resident(Gpu& gpu, int64_t layers, uint64_t bytes, const Fill& fill);
  /// All layers in pinned memory, `slots` of them at a time on the GPU: the next ones come while one computes.
  static std::unique_ptr<LayerStore> streamed(Gpu& gpu, void* compute, int64_t layers, uint64_t bytes, int slots,
                                              const Fill& fill);
  /// For networks that use each layer once and are not kept: every pass reads them anew, through as many places of pinned memory
  /// as the GPU has. `fill` is kept, and called in begin() and done() while the GPU is in the layers before; what it throws comes
  /// out of them. Layers are fetched in their order after a begin(), which must come first.
  static std::unique_ptr<LayerStore> passing(Gpu& gpu, void* compute, int64_t layers, uint64_t bytes, int slots, Fill fill);
};

}  // namespace sla2::device
