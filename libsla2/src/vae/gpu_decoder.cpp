// SPDX-License-Identifier: Apache-2.0
// Decoding on a GPU: weights in bf16 that stay, one arena for each stream of frames. The frames of a latent frame arrive in
// pinned memory while the next one is computed.
#include <algorithm>

#include "vae/gpu_stream.h"
#include "vae/tiled_decoder.h"

namespace sla2::vae {

namespace {

constexpr int kTurns = 2;  // chunks between the GPU and the receiver: one is computed while the other is taken

void check_precision(Precision precision) {
  SLA2_CHECK(
      precision != Precision::kF32, SLA2_E_UNSUPPORTED,
      "VAE decode on a GPU: vae_precision is fp32; its tensor cores multiply bf16: leave it at auto, or decode on the CPU");
}

/// An area of the latent as rows of channels, [frames, height, width, z].
std::vector<bf16_t> latent_rows(const latent::Latent& latent, const TileArea& area) {
  std::vector<bf16_t> rows(static_cast<size_t>(latent.frames * area.height * area.width * latent.channels));
  size_t at = 0;
  for (int64_t t = 0; t < latent.frames; ++t)
    for (int64_t y = 0; y < area.height; ++y)
      for (int64_t x = 0; x < area.width; ++x)
        for (int64_t c = 0; c < latent.channels; ++c) {
          const int64_t row = (c * latent.frames + t) * latent.height + area.y + y;
          rows[at++] = f32_to_bf16(latent.values[static_cast<size_t>(row * latent.width + area.x + x)]);
        }
  return rows;
}

/// Nothing that is queued may outlive the memory it uses, whatever ends the decode.
class Settled {
 public:
  Settled(device::Gpu& gpu, void* stream) : gpu_(gpu), stream_(stream) {}
  ~Settled() {
    try {
      gpu_.wait(stream_);
    } catch (const Error&) {  // what went wrong is on its way already, or nobody needs the result
    }
  }
  Settled(const Settled&) = delete;
  Settled& operator=(const Settled&) = delete;

 private:
  device::Gpu& gpu_;
  void* stream_;
};

class GpuDecoder final : public TiledDecoder {
 public:
  GpuDecoder(device::Gpu& gpu, const config::VaeConfig& config, const weights::Checkpoint& checkpoint, const CancelToken& cancel)
      : TiledDecoder(config), gpu_(gpu), ops_(gpu), frames_(gpu), stream_(gpu), places_(config), weights_(gpu, places_.bytes()) {
    ops_.use_stream(stream_.get());
    frames_.use_stream(stream_.get());
    places_.load(gpu, checkpoint, weights_.at(), cancel);
  }
  [[nodiscard]] std::string_view products() const noexcept override { return "bf16"; }

 private:
  void decode_area(const latent::Latent& latent, const TileArea& area, const CancelToken& cancel,
                   const Sink& on_frames) override {
    const GpuLayout layout(places_, config(), latent.frames, area.height, area.width);
    const device::Buffer arena(gpu_, layout.bytes());
    const device::PinnedBuffer arrived(gpu_, kTurns * layout.planes_bytes);
    const device::Event done[kTurns] = {device::Event(gpu_), device::Event(gpu_)};
    const Settled settled(gpu_, stream_.get());
    const auto place = [&](size_t index) { return arena.at(layout.memory.offset(index)); };
    const std::vector<bf16_t> rows = latent_rows(latent, area);
    gpu_.copy_in(place(layout.latents), rows.data(), rows.size() * sizeof(bf16_t));

    GpuStream stream(gpu_, ops_, frames_, {places_, weights_.at(), layout, arena.at()});
    const int64_t factor = spatial_factor(config());
    FrameChunk queued[kTurns];  // count 0: none
    const int64_t floats = kVideoChannels * area.height * factor * area.width * factor;
    const auto deliver = [&](size_t turn) {
      if (queued[turn].count == 0) return;
      gpu_.wait_for(done[turn].get());
      on_frames(queued[turn]);
      queued[turn].count = 0;
    };
    int64_t first = 0;
    for (int64_t t = 0; t < latent.frames; ++t) {
      const size_t turn = static_cast<size_t>(t) % kTurns;
      auto* const planes = reinterpret_cast<float*>(place(layout.planes[turn]));
      int64_t count = 0;
      cancel.check();
      stream.push(t, [&] {
        cancel.check();
        return planes + floats * count++;
      });
      std::byte* const target = arrived.data() + turn * layout.planes_bytes;
      gpu_.queue_copy_out(target, planes, static_cast<uint64_t>(floats * count) * sizeof(float), stream_.get());
      gpu_.record(done[turn].get(), stream_.get());
      queued[turn] = {first, count, area.height * factor, area.width * factor, reinterpret_cast<const float*>(target)};
      first += count;
      deliver(1 - turn);  // the one before; the GPU is in this one meanwhile
    }
    deliver(static_cast<size_t>(latent.frames - 1) % kTurns);
  }

  device::Gpu& gpu_;
  device::Ops ops_;
  device::FrameOps frames_;
  device::Stream stream_;
  GpuPlaces places_;
  device::Buffer weights_;
};

}  // namespace

std::unique_ptr<Decoder> Decoder::load_on(device::Gpu& gpu, const weights::Checkpoint& checkpoint, Precision precision,
                                          const CancelToken& cancel) {
  check_precision(precision);
  const config::VaeConfig config = config::read_vae_config(checkpoint);
  log(SLA2_LOG_INFO, "VAE decoder on {}: bf16 products", gpu.info().name);
  return std::make_unique<GpuDecoder>(gpu, config, checkpoint, cancel);
}

PlanSummary plan_decode_on(const config::VaeConfig& config, const latent::Latent& shape, const DecodeOptions& options) {
  check_precision(options.precision);
  const GpuPlaces places(config);
  const TileGrid grid(shape.height, shape.width, spatial_factor(config), options.tile, options.tile_overlap);
  const TileArea area = grid.area(0);  // the first tile is the largest
  const GpuLayout layout(places, config, shape.frames, area.height, area.width);
  PlanSummary plan;
  plan.weight_bytes = places.bytes();
  plan.activation_bytes = layout.bytes();
  plan.pinned_bytes = kTurns * layout.planes_bytes;
  plan.text = fmt::format(
      "VAE decode on the GPU, bf16 products, latent {}x{} in {} tile(s): weights {:.1f} MiB, causal caches {:.1f} MiB, frames in "
      "flight {:.1f} MiB, finished frames {:.1f} MiB\n{}",
      shape.width, shape.height, grid.count(), mebi(plan.weight_bytes), mebi(layout.remembered_bytes),
      mebi(layout.bytes() - layout.remembered_bytes - kTurns * layout.planes_bytes), mebi(kTurns * layout.planes_bytes),
      layout.memory.to_text());
  return plan;
}

}  // namespace sla2::vae
