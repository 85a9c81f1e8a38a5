// SPDX-License-Identifier: Apache-2.0
// A small UMT5 encoder with every parameter random, as a file: norms and biases too, so that nothing hides behind ones and zeros.
#pragma once
#include <filesystem>

#include "gpu_case.h"
#include "text/text.h"

namespace sla2::gpu_test {

struct Umt5Sizes {
  int64_t d_model = 40, heads = 3, head_dim = 8, d_ff = 56, layers = 4, vocabulary = 96, buckets = 32;
};

class RandomUmt5 {
 public:
  /// `stored`: of the products' weights; their numbers are bf16's either way if `narrow`. `norm`: the middle of norms' weights.
  RandomUmt5(const Umt5Sizes& s, DType stored, bool narrow, unsigned seed = 5, float norm = 1) {
    const int64_t inner = s.heads * s.head_dim;
    const auto matrix = [&](const std::string& name, int64_t out, int64_t in, float spread) {
      add(name + ".weight", {out, in}, normal(static_cast<size_t>(out * in), seed_of(name, seed), spread), stored, narrow);
    };
    const auto vector = [&](const std::string& name, std::vector<int64_t> shape, float spread, float middle) {
      int64_t count = 1;
      for (const int64_t extent : shape) count *= extent;
      add(name + ".weight", std::move(shape), normal(static_cast<size_t>(count), seed_of(name, seed), spread, middle),
          DType::kF32, false);
    };
    const auto root = [](int64_t width) { return 1 / std::sqrt(static_cast<float>(width)); };
    vector("shared", {s.vocabulary, s.d_model}, 3, 0);
    for (int64_t layer = 0; layer < s.layers; ++layer) {
      const std::string block = fmt::format("encoder.block.{}.layer.", layer), self = block + "0.SelfAttention.",
                        ffn = block + "1.DenseReluDense.";
      vector(block + "0.layer_norm", {s.d_model}, 0.3F, norm);
      vector(block + "1.layer_norm", {s.d_model}, 0.3F, 1);
      vector(self + "relative_attention_bias", {s.buckets, s.heads}, 1.5F, 0);
      for (const char* which : {"q", "k"}) matrix(self + which, inner, s.d_model, 1.2F * root(s.d_model));  // scores of some 4
      matrix(self + "v", inner, s.d_model, root(s.d_model));
      matrix(self + "o", s.d_model, inner, root(inner));
      for (const char* which : {"wi_0", "wi_1"}) matrix(ffn + which, s.d_ff, s.d_model, 2 * root(s.d_model));
      matrix(ffn + "wo", s.d_model, s.d_ff, root(s.d_ff));
    }
    vector("encoder.final_layer_norm", {s.d_model}, 0.3F, 1);
    path_ = (std::filesystem::temp_directory_path() / fmt::format("sla2_random_umt5_{}_{}.safetensors", ::getpid(), files_++))
                .string();
    std::vector<weights::OutputTensor> tensors;
    for (const Tensor& t : tensors_)
      tensors.push_back(
          {t.name, t.dtype, t.shape, t.dtype == DType::kBF16 ? static_cast<const void*>(t.bf16.data()) : t.values.data()});
    weights::write_safetensors(path_, tensors);
    checkpoint_ = weights::Checkpoint::open(path_);
  }
  ~RandomUmt5() { std::filesystem::remove(path_); }
  RandomUmt5(const RandomUmt5&) = delete;
  RandomUmt5& operator=(const RandomUmt5&) = delete;
  [[nodiscard]] const std::shared_ptr<const weights::Checkpoint>& checkpoint() const { return checkpoint_; }

 private:
  struct Tensor {
    std::string name;
    std::vector<int64_t> shape;
    DType dtype;
    std::vector<float> values;
    std::vector<uint16_t> bf16;
  };
  static unsigned seed_of(const std::string& name, unsigned seed) {
    return static_cast<unsigned>(std::hash<std::string>{}(name)) + seed;
  }
  void add(const std::string& name, std::vector<int64_t> shape, std::vector<float> values, DType dtype, bool narrow) {
    std::vector<uint16_t> bits = to_bf16(values);
    if (narrow)
      for (size_t i = 0; i < values.size(); ++i) values[i] = bf16_to_f32(bits[i]);
    tensors_.push_back({name, std::move(shape), dtype, std::move(values), std::move(bits)});
  }
  static inline int files_ = 0;
  std::vector<Tensor> tensors_;
  std::string path_;
  std::shared_ptr<const weights::Checkpoint> checkpoint_;
};

inline std::vector<int32_t> random_ids(int64_t count, int64_t vocabulary, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<int32_t> ids(static_cast<size_t>(count));
  for (int32_t& id : ids) id = static_cast<int32_t>(random() % static_cast<unsigned>(vocabulary));
  return ids;
}

}  // namespace sla2::gpu_test
