// SPDX-License-Identifier: Apache-2.0
// The door of vae: Wan-VAE. Latent frames in, video frames out, and back; streaming and exact.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "config/model_config.h"
#include "core/core.h"
#include "device/device.h"
#include "latent/latent.h"
#include "weights/weights.h"

namespace sla2::vae {

/// Frames [count, 3, H, W], fp32 in [-1, 1], in order.
struct FrameChunk {
  int64_t first = 0, count = 0, height = 0, width = 0;
  const float* values = nullptr;
};

enum class Precision : uint8_t { kAuto, kF32, kBf16 };

/// What decoding on this CPU does where `asked` for: auto is bf16 where the CPU is fast at it, else fp32. On a GPU it is always
/// bf16; encoding, which a clip may start from, is fp32 unless bf16 is asked for.
[[nodiscard]] Precision decode_precision(Precision asked);

struct DecodeOptions {
  Precision precision = Precision::kAuto;
  int64_t tile = 0;           ///< spatial tile in pixels; 0: whole frames (exact)
  int64_t tile_overlap = 64;  ///< pixels blended linearly
};

class Decoder {
 public:
  static std::unique_ptr<Decoder> load(const weights::Checkpoint& checkpoint, Precision precision);
  /// On a GPU, in bf16 with fp32 sums; it outlives the decoder. Throws MEMORY where it has not enough, here or when a decode
  /// begins; UNSUPPORTED for fp32 and for channels its kernels do not take.
  static std::unique_ptr<Decoder> load_on(device::Gpu& gpu, const weights::Checkpoint& checkpoint, Precision precision,
                                          const CancelToken& cancel);
  virtual ~Decoder() = default;
  /// latent [z,F',h,w] in the DiT's normalised space; the statistics are applied here. Calls on_frames with 1, then 4, 4, …
  /// frames (or single ones) as they are ready. Cancels between frames.
  virtual void decode(const latent::Latent& latent, const DecodeOptions& options, const CancelToken& cancel,
                      const std::function<void(const FrameChunk&)>& on_frames) = 0;
  [[nodiscard]] virtual const config::VaeConfig& config() const noexcept = 0;
  [[nodiscard]] virtual std::string_view products() const noexcept = 0;  ///< in words: "bf16", "fp32" …
};

class Encoder {
 public:
  static std::unique_ptr<Encoder> load(const weights::Checkpoint& checkpoint, Precision precision);
  virtual ~Encoder() = default;
  /// video [3, F, H, W] in [-1, 1], F = 4k+1; returns the normalised mean latent.
  virtual latent::Latent encode(const float* video, int64_t frames, int64_t height, int64_t width, const CancelToken& cancel) = 0;
};

/// Bytes a decode of this size needs beyond the weights, and the weights: from the configuration alone.
struct PlanSummary {
  uint64_t weight_bytes = 0, activation_bytes = 0;
  uint64_t pinned_bytes = 0;  ///< of this machine, where the frames of a GPU arrive
  std::string text;
};
PlanSummary plan_decode(const config::VaeConfig& config, int64_t latent_height, int64_t latent_width,
                        const DecodeOptions& options);
/// The same of a GPU's memory, for a latent of `shape` (sizes only). Throws UNSUPPORTED as load_on does.
PlanSummary plan_decode_on(const config::VaeConfig& config, const latent::Latent& shape, const DecodeOptions& options);

}  // namespace sla2::vae
