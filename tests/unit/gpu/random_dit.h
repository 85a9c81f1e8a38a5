// SPDX-License-Identifier: Apache-2.0
// A small diffusion transformer with every parameter random, as a file: norms and modulation too, so that nothing hides behind
// ones and zeros.
#pragma once
#include <filesystem>
#include <map>

#include "dit/dit.h"
#include "gpu_case.h"

namespace sla2::gpu_test {

struct DitSizes {
  int64_t heads = 2, head_dim = 32, ffn = 160, layers = 3, text_dim = 24, freq_dim = 32;
};

class RandomDit {
 public:
  explicit RandomDit(const DitSizes& s, unsigned seed = 7) {
    const int64_t dim = s.heads * s.head_dim, channels = 16;
    const auto linear = [&](const std::string& name, int64_t out, int64_t in) {
      add(name + ".weight", {out, in}, 1 / std::sqrt(static_cast<float>(in)), 0, seed);
      add(name + ".bias", {out}, 0.1F, 0, seed);
    };
    add("patch_embedding.weight", {dim, channels, 1, 2, 2}, 0.125F, 0, seed);
    add("patch_embedding.bias", {dim}, 0.1F, 0, seed);
    linear("time_embedding.0", dim, s.freq_dim);
    linear("time_embedding.2", dim, dim);
    linear("time_projection.1", 6 * dim, dim);
    linear("text_embedding.0", dim, s.text_dim);
    linear("text_embedding.2", dim, dim);
    linear("head.head", 4 * channels, dim);
    add("head.modulation", {1, 2, dim}, 0.3F, 0, seed);
    for (int64_t layer = 0; layer < s.layers; ++layer) {
      const std::string block = fmt::format("blocks.{}.", layer);
      add(block + "modulation", {1, 6, dim}, 0.3F, 0, seed);
      for (const char* part : {"self_attn.", "cross_attn."}) {
        for (const char* which : {"q", "k", "v", "o"}) linear(block + part + which, dim, dim);
        for (const char* norm : {"norm_q.weight", "norm_k.weight"}) add(block + part + norm, {dim}, 0.3F, 1, seed);
      }
      add(block + "norm3.weight", {dim}, 0.3F, 1, seed);
      add(block + "norm3.bias", {dim}, 0.1F, 0, seed);
      linear(block + "ffn.0", s.ffn, dim);
      linear(block + "ffn.2", dim, s.ffn);
    }
    std::vector<weights::OutputTensor> tensors;
    for (const auto& [name, tensor] : tensors_) tensors.push_back({name, DType::kF32, tensor.shape, tensor.values.data()});
    path_ = std::filesystem::temp_directory_path() / fmt::format("sla2_random_dit_{}_{}.safetensors", ::getpid(), seed);
    weights::write_safetensors(
        path_, tensors,
        {{"config",
          fmt::format(R"({{"attention_head_dim": {}, "num_attention_heads": {}, "text_len": 40}})", s.head_dim, s.heads)}});
    checkpoint_ = weights::Checkpoint::open(path_);
  }
  ~RandomDit() { std::filesystem::remove(path_); }
  RandomDit(const RandomDit&) = delete;
  RandomDit& operator=(const RandomDit&) = delete;
  [[nodiscard]] const std::shared_ptr<const weights::Checkpoint>& checkpoint() const { return checkpoint_; }

 private:
  struct Tensor {
    std::vector<int64_t> shape;
    std::vector<float> values;
  };
  void add(const std::string& name, std::vector<int64_t> shape, float spread, float middle, unsigned seed) {
    size_t count = 1;
    for (const int64_t extent : shape) count *= static_cast<size_t>(extent);
    tensors_[name] = {std::move(shape),
                      normal(count, static_cast<unsigned>(std::hash<std::string>{}(name)) + seed, spread, middle)};
  }
  std::map<std::string, Tensor> tensors_;
  std::string path_;
  std::shared_ptr<const weights::Checkpoint> checkpoint_;
};

/// |a - b| / |b|, both as vectors.
inline double distance(std::span<const float> a, std::span<const float> b) {
  double error = 0, size = 0;
  for (size_t i = 0; i < b.size(); ++i) {
    error += std::pow(static_cast<double>(a[i]) - static_cast<double>(b[i]), 2);
    size += std::pow(static_cast<double>(b[i]), 2);
  }
  return a.size() == b.size() ? std::sqrt(error / size) : INFINITY;
}

/// What a pass is asked for.
struct Pass {
  latent::Latent x;
  text::Embedding text, other_text;
  float timestep = 637.5F;
  Pass(const DitSizes& s, int64_t frames, int64_t height, int64_t width) {
    x = {16, frames, height, width, {}};
    x.values = normal(static_cast<size_t>(x.size()), 11);
    text = {9, s.text_dim, normal(static_cast<size_t>(9 * s.text_dim), 12)};
    other_text = {40, s.text_dim, normal(static_cast<size_t>(40 * s.text_dim), 13)};  // fills text_len: no padding row
  }
};

}  // namespace sla2::gpu_test
