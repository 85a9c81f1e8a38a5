// SPDX-License-Identifier: Apache-2.0
// What one pass on a GPU hands from part to part. Everything is queued on one compute stream.
#pragma once
#include <vector>

#include "dit/gpu_plan.h"
#include "dit/model.h"

namespace sla2::dit {

/// K and V of every layer's cross-attention for one prompt, on the GPU; see prompt.cpp.
class GpuPrompt final : public PromptContext {
 public:
  [[nodiscard]] uint64_t bytes() const noexcept override { return values.bytes() + key_bias.bytes(); }
  [[nodiscard]] const uint16_t* k(int64_t layer) const noexcept { return values.at<uint16_t>() + 2 * layer * keys * dim; }
  [[nodiscard]] const uint16_t* v(int64_t layer) const noexcept { return k(layer) + keys * dim; }
  int64_t keys = 0, dim = 0, layers = 0;
  device::Buffer values;    ///< [layers, 2, keys, dim] bf16
  device::Buffer key_bias;  ///< [keys] fp32; empty if no row stands for padding
};
std::unique_ptr<GpuPrompt> make_gpu_prompt(device::Gpu& gpu, device::Ops& ops, const config::DitConfig& config,
                                           const Loader& loader, const text::Embedding& embedding);

/// What was learned for the layers, on the GPU.
class GpuPack {
 public:
  GpuPack(device::Gpu& gpu, const weights::RouterPack& pack);
  [[nodiscard]] attention::Parameters of(int64_t layer, const LayerAttention& kind) const;

 private:
  struct Layer {
    device::Buffer router_q, router_k, proj, proj_bias;
    std::vector<device::Buffer> mix;
    int64_t router_heads = 1;
  };
  std::vector<Layer> layers_;
};

/// Pointers into the arena of a grid.
struct GpuWorkspace {
  float* x = nullptr;  ///< of the prompt whose turn it is
  uint16_t *tokens_in = nullptr, *qkv = nullptr, *self_out = nullptr, *cross_q = nullptr, *cross_out = nullptr, *normed = nullptr,
           *hidden = nullptr;
  int8_t* steps = nullptr;
  float *scale = nullptr, *tokens_out = nullptr;
  void* attention = nullptr;
  int64_t tokens = 0, chunk = 0;
  device::RopeOnGpu rope;
};

/// One block for one prompt.
struct GpuBlockCall {
  const config::DitConfig& config;
  const BlockPlaces& places;
  const std::byte* weights;  ///< the layer's stretch
  const float* modulation;   ///< [6, dim] of this layer and timestep, scales with their 1
  const GpuPrompt& prompt;
  int64_t layer;
  attention::Plan &self, &cross;
  attention::Parameters learned;
  int32_t* bad;  ///< set to 1 where x comes in with NaN or infinity
};
/// Queues x += self-attention, cross-attention, FFN. `around_attention`: called before and after the self-attention.
void queue_gpu_block(device::Ops& ops, const GpuBlockCall& call, const GpuWorkspace& work,
                     const std::function<void()>& around_attention);

}  // namespace sla2::dit
