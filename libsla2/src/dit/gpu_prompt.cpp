// SPDX-License-Identifier: Apache-2.0
// prompt.cpp on a GPU: text rows to every layer's cross-attention K and V, once per prompt; and what was learned for attention,
// taken there. Weights that are needed once pass through one place and are not kept.
#include <algorithm>

#include "dit/gpu_model.h"

namespace sla2::dit {

namespace {

/// Linears of a checkpoint, one at a time on the GPU.
class PassingLinears {
 public:
  PassingLinears(device::Gpu& gpu, device::Ops& ops, const Loader& loader, std::span<const LinearSpec> all)
      : gpu_(gpu), ops_(ops), loader_(loader) {
    uint64_t most = 0;
    for (const LinearSpec& spec : all) {
      device::Stretch stretch;
      (void)LinearPlace(stretch, spec, loader.holding());
      most = std::max(most, stretch.bytes());
    }
    staging_ = device::PinnedBuffer(gpu, most);
    memory_ = device::Buffer(gpu, most);
  }
  void run(const LinearSpec& spec, const uint16_t* x, int64_t rows, uint16_t* y, cuda::GemmFinish finish) {
    device::Stretch stretch;
    const LinearPlace place(stretch, spec, loader_.holding());
    read_linear(loader_, spec, place, staging_.data());
    gpu_.copy_in(memory_.get(), staging_.data(), stretch.bytes());
    ops_.linear(place.on(memory_.at()), {const_cast<uint16_t*>(x), nullptr, nullptr}, rows,
                {y, DType::kBF16, 0, finish, nullptr});
    gpu_.wait(ops_.stream());  // then the place is free for the next
  }

 private:
  device::Gpu& gpu_;
  device::Ops& ops_;
  const Loader& loader_;
  device::PinnedBuffer staging_;
  device::Buffer memory_;
};

device::Buffer on_gpu(device::Gpu& gpu, const void* values, uint64_t bytes) {
  device::Buffer buffer(gpu, bytes);
  if (bytes > 0) gpu.copy_in(buffer.get(), values, bytes);
  return buffer;
}
device::Buffer on_gpu(device::Gpu& gpu, const std::vector<float>& values) {
  return on_gpu(gpu, values.data(), values.size() * sizeof(float));
}

}  // namespace

std::unique_ptr<GpuPrompt> make_gpu_prompt(device::Gpu& gpu, device::Ops& ops, const config::DitConfig& c, const Loader& loader,
                                           const text::Embedding& embedding) {
  const PromptRows input = prompt_rows(c, embedding);
  const int64_t keys = input.keys, size = keys * c.dim;
  auto prompt = std::make_unique<GpuPrompt>();
  prompt->keys = keys, prompt->dim = c.dim, prompt->layers = c.layers;
  prompt->key_bias = on_gpu(gpu, input.key_bias);
  prompt->values = device::Buffer(gpu, static_cast<uint64_t>(2 * c.layers * size) * sizeof(uint16_t));

  std::vector<bf16_t> narrow(input.rows.size());
  convert_to_bf16(input.rows.data(), narrow.data(), narrow.size());
  const device::Buffer rows = on_gpu(gpu, narrow.data(), narrow.size() * sizeof(bf16_t));
  const uint64_t row_bytes = static_cast<uint64_t>(size) * sizeof(bf16_t);
  const device::Buffer hidden(gpu, row_bytes), context(gpu, row_bytes);
  const LinearSpec sorts[] = {spec_text_in(c), spec_text_out(c), spec_cross(c, 0, "k")};
  PassingLinears linears(gpu, ops, loader, sorts);
  linears.run(spec_text_in(c), rows.at<uint16_t>(), keys, hidden.at<uint16_t>(), cuda::kGemmGeluTanh);
  linears.run(spec_text_out(c), hidden.at<uint16_t>(), keys, context.at<uint16_t>(), cuda::kGemmStore);
  std::vector<device::Buffer> norms;
  for (int64_t layer = 0; layer < c.layers; ++layer) {
    uint16_t* const k = prompt->values.at<uint16_t>() + 2 * layer * size;
    const AlignedBuffer<float> norm = loader.vector(block_name(layer, "cross_attn.norm_k.weight"), {c.dim});
    norms.push_back(on_gpu(gpu, norm.data(), norm.size() * sizeof(float)));
    linears.run(spec_cross(c, layer, "k"), context.at<uint16_t>(), keys, k, cuda::kGemmStore);
    ops.rms_norm({k, c.dim, keys, c.dim, norms.back().at<float>(), nullptr, 0, 0, static_cast<float>(c.eps)}, {});
    linears.run(spec_cross(c, layer, "v"), context.at<uint16_t>(), keys, k + size, cuda::kGemmStore);
  }
  gpu.wait(ops.stream());
  return prompt;
}

GpuPack::GpuPack(device::Gpu& gpu, const weights::RouterPack& pack) {
  for (const weights::PackLayer& from : pack.layers) {
    Layer to;
    to.router_q = on_gpu(gpu, from.router_q);
    to.router_k = on_gpu(gpu, from.router_k);
    to.proj = on_gpu(gpu, from.proj);
    to.proj_bias = on_gpu(gpu, from.proj_bias);
    for (const std::vector<float>& set : from.mix) to.mix.push_back(on_gpu(gpu, set));
    to.router_heads = from.router_heads;
    layers_.push_back(std::move(to));
  }
}

attention::Parameters GpuPack::of(int64_t layer, const LayerAttention& kind) const {
  const Layer& learned = layers_[static_cast<size_t>(layer)];
  attention::Parameters p;
  p.router_q = learned.router_q.at<float>();
  p.router_k = learned.router_k.at<float>();
  p.router_heads = learned.router_heads;
  p.proj = learned.proj.at<float>();
  p.proj_bias = learned.proj_bias.at<float>();
  if (!learned.mix.empty()) p.mix = learned.mix.at(static_cast<size_t>(kind.mix_set)).at<float>();
  return p;
}

}  // namespace sla2::dit
