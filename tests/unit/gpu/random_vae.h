// SPDX-License-Identifier: Apache-2.0
// A small Wan-VAE with every parameter random, as a file.
#pragma once
#include <unistd.h>

#include <filesystem>
#include <map>

#include "gpu_case.h"
#include "vae/vae.h"

namespace sla2::gpu_test {

/// Widths 8, 16, 32, 32; twice as many frames in two places, twice the size in three.
class RandomVae {
 public:
  static constexpr int64_t kLatent = 16, kBase = 8, kLevels = 4;
  static constexpr int64_t kWidth[kLevels] = {8, 16, 32, 32};

  explicit RandomVae(unsigned seed = 5) : seed_(seed) {
    int64_t at = 0, width = kBase;
    conv("encoder.conv1", {kBase, 3, 3, 3, 3});
    for (int64_t level = 0; level < kLevels; ++level) {
      residual(fmt::format("encoder.downsamples.{}", at++), width, kWidth[level]);
      width = kWidth[level];
      if (level + 1 == kLevels) break;
      const std::string down = fmt::format("encoder.downsamples.{}", at++);
      conv(down + ".resample.1", {width, width, 3, 3});
      if (level > 0) conv(down + ".time_conv", {width, width, 3, 1, 1});
    }
    middle("encoder.", width);
    head("encoder.", width, 2 * kLatent);
    conv("conv1", {2 * kLatent, 2 * kLatent, 1, 1, 1});

    at = 0;
    conv("conv2", {kLatent, kLatent, 1, 1, 1});
    conv("decoder.conv1", {width, kLatent, 3, 3, 3});
    middle("decoder.", width);
    for (int64_t level = 0; level < kLevels; ++level) {
      const int64_t out = kWidth[kLevels - 1 - level];
      for (int64_t i = 0; i < 2; ++i, width = out) residual(fmt::format("decoder.upsamples.{}", at++), width, out);
      if (level + 1 == kLevels) break;
      const std::string up = fmt::format("decoder.upsamples.{}", at++);
      conv(up + ".resample.1", {width / 2, width, 3, 3});
      if (level < 2) conv(up + ".time_conv", {2 * width, width, 3, 1, 1});
      width /= 2;
    }
    head("decoder.", width, 3);

    std::vector<weights::OutputTensor> tensors;
    for (const auto& [name, tensor] : tensors_) tensors.push_back({name, DType::kF32, tensor.shape, tensor.values.data()});
    path_ =
        (std::filesystem::temp_directory_path() / fmt::format("sla2_random_vae_{}_{}.safetensors", ::getpid(), seed)).string();
    std::string means, deviations;
    for (int64_t c = 0; c < kLatent; ++c) {
      means += fmt::format("{}{}", c == 0 ? "" : ", ", 0.1 * static_cast<double>(c) - 0.7);
      deviations += fmt::format("{}{}", c == 0 ? "" : ", ", 0.6 + 0.05 * static_cast<double>(c));
    }
    weights::write_safetensors(path_, tensors,
                               {{"config", fmt::format(R"({{"latents_mean": [{}], "latents_std": [{}]}})", means, deviations)}});
    checkpoint_ = weights::Checkpoint::open(path_);
  }
  ~RandomVae() { std::filesystem::remove(path_); }
  RandomVae(const RandomVae&) = delete;
  RandomVae& operator=(const RandomVae&) = delete;
  [[nodiscard]] const weights::Checkpoint& checkpoint() const { return *checkpoint_; }

 private:
  struct Tensor {
    std::vector<int64_t> shape;
    std::vector<float> values;
  };
  void add(const std::string& name, std::vector<int64_t> shape, float spread, float middle) {
    size_t count = 1;
    for (const int64_t extent : shape) count *= static_cast<size_t>(extent);
    tensors_[name] = {std::move(shape),
                      normal(count, static_cast<unsigned>(std::hash<std::string>{}(name)) + seed_, spread, middle)};
  }
  void conv(const std::string& name, const std::vector<int64_t>& shape) {
    float fan_in = 1;
    for (size_t axis = 1; axis < shape.size(); ++axis) fan_in *= static_cast<float>(shape[axis]);
    add(name + ".weight", shape, 1 / std::sqrt(fan_in), 0);
    add(name + ".bias", {shape.front()}, 0.1F, 0);
  }
  void residual(const std::string& name, int64_t in, int64_t out) {
    add(name + ".residual.0.gamma", {in, 1, 1, 1}, 0.3F, 1);
    conv(name + ".residual.2", {out, in, 3, 3, 3});
    add(name + ".residual.3.gamma", {out, 1, 1, 1}, 0.3F, 1);
    conv(name + ".residual.6", {out, out, 3, 3, 3});
    if (in != out) conv(name + ".shortcut", {out, in, 1, 1, 1});
  }
  void middle(const std::string& side, int64_t width) {
    residual(side + "middle.0", width, width);
    add(side + "middle.1.norm.gamma", {width, 1, 1}, 0.3F, 1);
    conv(side + "middle.1.to_qkv", {3 * width, width, 1, 1});
    conv(side + "middle.1.proj", {width, width, 1, 1});
    residual(side + "middle.2", width, width);
  }
  void head(const std::string& side, int64_t width, int64_t out) {
    add(side + "head.0.gamma", {width, 1, 1, 1}, 0.3F, 1);
    conv(side + "head.2", {out, width, 3, 3, 3});
  }

  unsigned seed_;
  std::map<std::string, Tensor> tensors_;
  std::string path_;
  std::shared_ptr<const weights::Checkpoint> checkpoint_;
};

}  // namespace sla2::gpu_test
