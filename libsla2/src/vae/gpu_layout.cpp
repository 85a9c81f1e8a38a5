// SPDX-License-Identifier: Apache-2.0
#include "vae/gpu_layout.h"

#include <algorithm>

namespace sla2::vae {

namespace {

enum Turn : int { kResidual, kAttention, kUpsample, kHead };  // blocks take turns; what one leaves behind is dead in the next

constexpr uint64_t kScoreBytes = uint64_t{32} << 20U;  // of the middle attention at a time
constexpr int64_t kScoreRows = 128;                    // a multiple of these: tiles of the product

int64_t query_rows_for(int64_t tokens, int64_t filled) {
  const auto fit = static_cast<int64_t>(kScoreBytes / (static_cast<uint64_t>(filled) * sizeof(float)));
  return std::min(tokens, std::max<int64_t>(1, fit / kScoreRows) * kScoreRows);
}

}  // namespace

GpuLayout::GpuLayout(const GpuPlaces& places, const config::VaeConfig& config, int64_t latent_frames, int64_t latent_height,
                     int64_t latent_width)
    : height(latent_height), width(latent_width) {
  const auto floats = [](int64_t count) { return static_cast<uint64_t>(count) * sizeof(float); };
  const auto halfs = [](int64_t count) { return static_cast<uint64_t>(count) * sizeof(bf16_t); };
  uint64_t x_bytes = 0, narrow_bytes = 0, hidden_bytes = 0, sum_bytes = 0;
  int64_t middle = 0, pixels = 0;
  const auto most = [](uint64_t& bytes, uint64_t wanted) { bytes = std::max(bytes, wanted); };
  halves.resize(places.blocks().size());
  for (size_t i = 0; i < places.blocks().size(); ++i) {
    const BlockSpec& spec = places.blocks()[i].spec;
    const FrameKind in = entering(spec);
    const FrameKind out{spec.out, in.height, in.width};
    switch (spec.kind) {
      case BlockKind::kInput:
        shelves[in].count += 2;
        most(x_bytes, floats(out.channels * out.pixels()));
        break;
      case BlockKind::kResidual:
        shelves[in].count += 2;
        shelves[out].count += 2;
        most(x_bytes, floats(out.channels * out.pixels()));
        most(hidden_bytes, out.bytes());
        if (spec.in == spec.out) break;
        most(sum_bytes, floats(out.channels * out.pixels()));
        most(narrow_bytes, in.bytes());
        break;
      case BlockKind::kAttention: middle = spec.in; break;
      case BlockKind::kUpsample3d:
        shelves[in].count += 2;
        halves[i] = memory.add("two frames of " + spec.name, 2 * in.bytes(), kResidual, kHead);
        remembered_bytes += 2 * in.bytes();
        [[fallthrough]];
      case BlockKind::kUpsample2d:
        most(narrow_bytes, in.bytes());
        most(x_bytes, floats(4 * spec.out * in.pixels()));
        break;
      case BlockKind::kHead:
        shelves[in].count += 2;
        pixels = in.pixels();
        break;
      default: break;
    }
  }
  for (auto& [kind, shelf] : shelves) {
    ++shelf.count;
    const uint64_t bytes = static_cast<uint64_t>(shelf.count) * kind.bytes();
    shelf.place = memory.add(fmt::format("{} frames of {}x{}, {} channels", shelf.count, kind.width, kind.height, kind.channels),
                             bytes, kResidual, kHead);
    remembered_bytes += bytes;
  }
  latents = memory.add("latents", halfs(latent_frames * latent_height * latent_width * config.z_dim), kResidual, kHead);
  planes_bytes = floats(temporal_factor(config) * kVideoChannels * pixels);
  for (size_t& place : planes) place = memory.add("finished frames", planes_bytes, kResidual, kHead);
  x = memory.add("frame in flight", x_bytes, kResidual, kHead);
  narrow = memory.add("the same in bf16", narrow_bytes, kResidual, kUpsample);
  hidden = memory.add("inside a residual block", hidden_bytes, kResidual, kResidual);
  sum = memory.add("shortcut", sum_bytes, kResidual, kResidual);
  pictures = memory.add("pictures", floats(pixels * device::kWidthStep), kHead, kHead);

  tokens = latent_height * latent_width;
  filled = (tokens + device::kWidthStep - 1) / device::kWidthStep * device::kWidthStep;
  query_rows = query_rows_for(tokens, filled);
  const auto attention = [&](const char* name, uint64_t bytes) { return memory.add(name, bytes, kAttention, kAttention); };
  normed = attention("attention: rows", halfs(filled * middle));
  query = attention("attention: q", halfs(filled * middle));
  key = attention("attention: k", halfs(filled * middle));
  value = attention("attention: v", halfs(filled * middle));
  scores = attention("attention: scores", floats(query_rows * filled));
  weights = attention("attention: weights", halfs(query_rows * filled));
  memory.solve();
}

}  // namespace sla2::vae
