// SPDX-License-Identifier: Apache-2.0
// probe_weights VERB PATH [TARGET]
//   f32 PATH TARGET   every tensor as fp32 under its canonical name
//   bf16 PATH TARGET  the same, converted to bf16
//   copy PATH TARGET  one file, tensors and metadata as stored, through reader and writer
//   info PATH         the JSON of identify()
//   dit PATH, vae PATH   the configuration read from the tensors, as JSON
//   digest PATH
//   time PATH         wall and CPU seconds of reading all tensors as fp32, two passes
// An Error goes to stderr with its status name as exit code 1.
#include <chrono>
#include <ctime>
#include <iostream>
#include <nlohmann/json.hpp>
#include <numeric>

#include "config/model_config.h"
#include "weights/weights.h"

namespace {

using nlohmann::json;
using sla2::DType;
namespace weights = sla2::weights;

template <typename T>
void convert_all(const std::string& path, const std::string& target, DType dtype) {
  const auto checkpoint = weights::Checkpoint::open(path);
  const auto names = checkpoint->names();
  std::vector<std::vector<T>> numbers;
  std::vector<weights::OutputTensor> tensors;
  numbers.reserve(names.size());
  for (const std::string& name : names) {
    const weights::TensorInfo& info = checkpoint->info(name);
    auto& values = numbers.emplace_back(static_cast<size_t>(info.element_count()));
    if constexpr (std::is_same_v<T, float>) {
      checkpoint->read_f32(name, info.shape, values);
    } else {
      checkpoint->read_bf16(name, info.shape, values);
    }
    tensors.push_back({name, dtype, info.shape, values.data()});
  }
  weights::write_safetensors(target, tensors);
}

void copy(const std::string& path, const std::string& target) {
  const auto file = weights::SafetensorsFile::open(path);
  std::vector<std::vector<std::byte>> bytes;
  std::vector<weights::OutputTensor> tensors;
  bytes.reserve(file->tensors().size());
  for (const weights::TensorInfo& info : file->tensors()) {
    auto& values = bytes.emplace_back(info.end - info.begin);
    file->read_bytes(info, 0, values);
    tensors.push_back({info.name, info.dtype, info.shape, values.data()});
  }
  weights::write_safetensors(target, tensors, file->metadata());
}

json dit_json(const sla2::config::DitConfig& c) {
  return {{"dim", c.dim},
          {"heads", c.heads},
          {"head_dim", c.head_dim},
          {"layers", c.layers},
          {"ffn_dim", c.ffn_dim},
          {"in_channels", c.in_channels},
          {"text_dim", c.text_dim},
          {"out_channels", c.out_channels},
          {"text_len", c.text_len},
          {"freq_dim", c.freq_dim},
          {"cross_attn_norm", c.cross_attn_norm},
          {"eps", c.eps},
          {"rope_max", c.rope_max}};
}

json vae_json(const sla2::config::VaeConfig& c) {
  return {{"base_dim", c.base_dim},
          {"decoder_base_dim", c.decoder_base_dim},
          {"z_dim", c.z_dim},
          {"res_blocks", c.res_blocks},
          {"dim_mult", c.dim_mult},
          {"temporal_downsample", c.temporal_downsample},
          {"latents_mean", c.latents_mean},
          {"latents_std", c.latents_std}};
}

void time_reading(const std::string& path) {
  std::vector<float> numbers;
  for (int pass = 0; pass < 2; ++pass) {  // the second pass finds the file cached and the target paged in
    const auto start = std::chrono::steady_clock::now();
    const std::clock_t cpu_start = std::clock();
    const auto checkpoint = weights::Checkpoint::open(path);
    int64_t total = 0;
    for (const std::string& name : checkpoint->names()) {
      const int64_t count = checkpoint->info(name).element_count();
      numbers.resize(std::max(numbers.size(), static_cast<size_t>(count)));
      checkpoint->read_f32(name, {}, std::span(numbers).first(static_cast<size_t>(count)));
      total += count;
    }
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    const double cpu_seconds = static_cast<double>(std::clock() - cpu_start) / CLOCKS_PER_SEC;
    const double gigabytes = static_cast<double>(total) * sizeof(float) * 1e-9;
    std::cout << json({{"seconds", seconds},
                       {"output_gb_per_s", gigabytes / seconds},
                       {"cpu_seconds", cpu_seconds},
                       {"output_gb_per_cpu_s", gigabytes / cpu_seconds},
                       {"threads", sla2::thread_count()}})
              << "\n";
  }
}

int run(const std::string& verb, const std::string& path, const std::string& target) {
  if (verb == "f32")
    convert_all<float>(path, target, DType::kF32);
  else if (verb == "bf16")
    convert_all<sla2::bf16_t>(path, target, DType::kBF16);
  else if (verb == "copy")
    copy(path, target);
  else if (verb == "info")
    std::cout << weights::identify(path).json << "\n";
  else if (verb == "dit")
    std::cout << dit_json(sla2::config::read_dit_config(*weights::Checkpoint::open(path))) << "\n";
  else if (verb == "vae")
    std::cout << vae_json(sla2::config::read_vae_config(*weights::Checkpoint::open(path))) << "\n";
  else if (verb == "digest")
    std::cout << weights::Checkpoint::open(path)->digest() << "\n";
  else if (verb == "time")
    time_reading(path);
  else
    return 2;
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) return 2;
  try {
    return run(argv[1], argv[2], argc > 3 ? argv[3] : "");
  } catch (const sla2::Error& error) {
    std::cerr << error.status() << " " << error.what() << "\n";
    return 1;
  }
}
