// SPDX-License-Identifier: Apache-2.0
// Runs the VAE on safetensors files for tests/python/test_vae.py and bench_vae.py.
//   decode WEIGHTS IN OUT   IN: latent [C,F',h,w];  OUT: frames [F,3,H,W], chunks (frames per call), rgb, preview
//   encode WEIGHTS IN OUT   IN: video [3,F,H,W];    OUT: latent [C,F',h,w]
//   bench WEIGHTS           one decode of noise; JSON with seconds, CPU seconds, peak memory and the plan
//   convs                   the convolutions of the full size, direct and Winograd
#include <algorithm>
#include <chrono>
#include <CLI/CLI.hpp>
#include <cstdio>
#include <ctime>
#include <numeric>

#include "bench_conv.h"
#include "core/core.h"
#include "vae/vae.h"
#include "video/video.h"
#include "weights/weights.h"

namespace {

using namespace sla2;  // NOLINT: a program, not a header

struct Arguments {
  std::string weights, input, output, precision = "auto";
  int64_t tile = 0, overlap = 64, height = 128, width = 128, frames = 9, cancel_after = -1;
  int threads = 0;
};

vae::Precision precision_of(const std::string& name) {
  if (name == "bf16") return vae::Precision::kBf16;
  return name == "f32" ? vae::Precision::kF32 : vae::Precision::kAuto;
}

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

std::vector<float> read_tensor(const std::string& path, const char* name, std::vector<int64_t>& shape) {
  const auto file = weights::SafetensorsFile::open(path);
  const weights::TensorInfo* info = file->find(name);
  if (info == nullptr) fail(SLA2_E_ARGUMENT, "{} holds no tensor '{}'", path, name);
  shape = info->shape;
  std::vector<float> values(static_cast<size_t>(info->element_count()));
  file->read_bytes(*info, 0, std::as_writable_bytes(std::span(values)));
  return values;
}

latent::Latent read_latent(const std::string& path) {
  std::vector<int64_t> shape;
  latent::Latent latent;
  latent.values = read_tensor(path, "latent", shape);
  latent.channels = shape.at(0);
  latent.frames = shape.at(1);
  latent.height = shape.at(2);
  latent.width = shape.at(3);
  return latent;
}

void decode(const Arguments& a) {
  const latent::Latent latent = read_latent(a.input);
  auto decoder = vae::Decoder::load(*weights::Checkpoint::open(a.weights), precision_of(a.precision));
  std::vector<float> frames;
  std::vector<int64_t> chunks;
  std::vector<uint8_t> rgb, all_rgb, preview;
  int64_t height = 0, width = 0;
  CancelToken cancel;
  decoder->decode(latent, {precision_of(a.precision), a.tile, a.overlap}, cancel, [&](const vae::FrameChunk& chunk) {
    height = chunk.height;
    width = chunk.width;
    frames.insert(frames.end(), chunk.values, chunk.values + chunk.count * 3 * height * width);
    chunks.push_back(chunk.count);
    video::frames_to_rgb(chunk, rgb);
    all_rgb.insert(all_rgb.end(), rgb.begin(), rgb.end());
    if (static_cast<int64_t>(chunks.size()) == a.cancel_after) cancel.request();
  });
  video::preview_rgb(latent, {}, preview);
  const int64_t count = std::accumulate(chunks.begin(), chunks.end(), int64_t{0});
  const std::vector<weights::OutputTensor> out{
      {"frames", DType::kF32, {count, 3, height, width}, frames.data()},
      {"chunks", DType::kI64, {static_cast<int64_t>(chunks.size())}, chunks.data()},
      {"rgb", DType::kU8, {count, height, width, 3}, all_rgb.data()},
      {"preview", DType::kU8, {latent.frames, latent.height, latent.width, 3}, preview.data()}};
  weights::write_safetensors(a.output, out);
}

void encode(const Arguments& a) {
  std::vector<int64_t> shape;
  const std::vector<float> video = read_tensor(a.input, "video", shape);
  auto encoder = vae::Encoder::load(*weights::Checkpoint::open(a.weights), precision_of(a.precision));
  const latent::Latent latent = encoder->encode(video.data(), shape.at(1), shape.at(2), shape.at(3), CancelToken());
  const std::vector<weights::OutputTensor> out{
      {"latent", DType::kF32, {latent.channels, latent.frames, latent.height, latent.width}, latent.values.data()}};
  weights::write_safetensors(a.output, out);
}

void bench(const Arguments& a) {
  const uint64_t before = resident_bytes();
  const auto load_start = std::chrono::steady_clock::now();
  auto decoder = vae::Decoder::load(*weights::Checkpoint::open(a.weights), precision_of(a.precision));
  const double load_seconds = seconds_since(load_start);
  const config::VaeConfig& config = decoder->config();
  const int64_t factor = int64_t{1} << (config.dim_mult.size() - 1);
  latent::Latent latent{config.z_dim, (a.frames - 1) / 4 + 1, a.height / factor, a.width / factor, {}};
  latent.values.resize(static_cast<size_t>(latent.size()));
  latent::NoiseSource(1).fill_normal(latent.values);
  const vae::PlanSummary plan =
      vae::plan_decode(config, latent.height, latent.width, {precision_of(a.precision), a.tile, a.overlap});
  // Tiles are blended into the whole clip (pipeline/preflight.cpp counts it too).
  const bool tiled = a.tile > 0 && a.tile < std::max(a.height, a.width);
  const uint64_t clip_bytes = tiled ? static_cast<uint64_t>(3 * a.frames * a.height * a.width) * sizeof(float) : 0;
  const auto start = std::chrono::steady_clock::now();
  const std::clock_t cpu_start = std::clock();
  int64_t frames = 0;
  decoder->decode(latent, {precision_of(a.precision), a.tile, a.overlap}, CancelToken(),
                  [&](const vae::FrameChunk& chunk) { frames += chunk.count; });
  const double cpu_seconds = static_cast<double>(std::clock() - cpu_start) / CLOCKS_PER_SEC;
  fmt::print(
      "{{\"seconds\": {:.4f}, \"cpu_seconds\": {:.4f}, \"load_seconds\": {:.4f}, \"frames\": {}, \"peak_bytes\": {}, "
      "\"used_bytes\": {}, \"plan_bytes\": {}}}\n",
      seconds_since(start), cpu_seconds, load_seconds, frames, peak_resident_bytes(), peak_resident_bytes() - before,
      plan.weight_bytes + plan.activation_bytes + clip_bytes);
}

}  // namespace

int main(int argc, char** argv) {
  Arguments a;
  CLI::App app{"VAE probe"};
  app.require_subcommand(1);
  const auto common = [&](CLI::App* command, bool files) {
    command->add_option("weights", a.weights)->required();
    if (files) {
      command->add_option("input", a.input)->required();
      command->add_option("output", a.output)->required();
    }
    command->add_option("--precision", a.precision);
    command->add_option("--tile", a.tile);
    command->add_option("--overlap", a.overlap);
    command->add_option("--threads", a.threads);
    command->add_option("--cancel-after", a.cancel_after, "request a stop after this many chunks");
    command->add_option("--height", a.height);
    command->add_option("--width", a.width);
    command->add_option("--frames", a.frames);
  };
  common(app.add_subcommand("decode"), true);
  common(app.add_subcommand("encode"), true);
  common(app.add_subcommand("bench"), false);
  app.add_subcommand("convs")->add_option("--threads", a.threads);
  CLI11_PARSE(app, argc, argv);
  set_thread_count(a.threads);
  try {
    if (app.got_subcommand("decode")) decode(a);
    if (app.got_subcommand("encode")) encode(a);
    if (app.got_subcommand("bench")) bench(a);
    if (app.got_subcommand("convs")) bench_convs();
    return 0;
  } catch (const Error& error) {
    fmt::print(stderr, "{} ({})\n", error.what(), static_cast<int>(error.status()));
    return 1;
  }
}
