// SPDX-License-Identifier: Apache-2.0
// probe_dit forward --model PATH --input FILE --output FILE [--precision f32|bf16|auto] [--linear-bits 16|8] [--threads N]
// [--token-chunk N]
//   input: latent [C, F, H, W], text [n, text_dim], timestep [1]; output: velocity, and block.<i> [tokens, dim] after every block
//   (block.-1: the patch embedding). A third input `sparsity` [layers] makes layers with a value above 0 sparse.
// probe_dit bench …  see bench_dit.cpp; linears …  see bench_linears.cpp
#include <iostream>
#include <nlohmann/json.hpp>

#include "../probe_io.h"
#include "bench_dit.h"
#include "dit/dit.h"

namespace {

using namespace sla2;

struct Arguments {
  std::string model, input, output, precision = "f32", token_order = "raster";
  int threads = 0, linear_bits = 16;
  int64_t token_chunk = dit::Options().token_chunk;
};

void forward(const Arguments& a) {
  set_thread_count(a.threads);
  const auto input = weights::SafetensorsFile::open(a.input);
  const auto* shape = input->find("latent");
  SLA2_CHECK(shape != nullptr && shape->shape.size() == 4, SLA2_E_ARGUMENT, "{}: latent [C, F, H, W] expected", a.input);
  latent::Latent x{shape->shape[0], shape->shape[1], shape->shape[2], shape->shape[3], probe::read_tensor(*input, "latent")},
      velocity;
  const auto text_shape = input->find("text")->shape;
  const text::Embedding embedding{text_shape[0], text_shape[1], probe::read_tensor(*input, "text")};
  std::vector<dit::LayerAttention> policy;
  if (input->find("sparsity") != nullptr) {
    for (const float value : probe::read_tensor(*input, "sparsity"))
      policy.push_back(value > 0 ? dit::LayerAttention{attention::Mode::kSla2, static_cast<double>(value)}
                                 : dit::LayerAttention{});
  }

  std::vector<probe::Tensor> outputs;
  dit::Options options;
  options.token_chunk = a.token_chunk;
  options.linear_bits = a.linear_bits;
  options.token_order = a.token_order == "tiles"     ? attention::Order::kTiles
                        : a.token_order == "hilbert" ? attention::Order::kHilbert
                                                     : attention::Order::kRaster;
  options.precision = a.precision == "f32"    ? dit::Precision::kF32
                      : a.precision == "bf16" ? dit::Precision::kBf16
                                              : dit::Precision::kAuto;
  const int64_t tokens = latent::grid_of(x).tokens();
  options.on_block = [&](int64_t block, std::span<const float> values) {
    outputs.push_back(
        {fmt::format("block.{}", block), {tokens, static_cast<int64_t>(values.size()) / tokens}, {values.begin(), values.end()}});
  };
  std::vector<double> progress;
  const CancelToken cancel;
  const auto model =
      dit::Dit::load(weights::Checkpoint::open(a.model), options, cancel, [&](double fraction) { progress.push_back(fraction); });
  const auto prompt = model->prepare_prompt(embedding);
  model->set_grid(latent::grid_of(x));
  dit::ForwardReport report;
  model->forward(x, probe::read_tensor(*input, "timestep").at(0), *prompt, policy, cancel, velocity, &report);
  outputs.push_back({"velocity", {velocity.channels, velocity.frames, velocity.height, velocity.width}, velocity.values});
  probe::write_tensors(a.output, outputs);
  nlohmann::json layers = nlohmann::json::array();
  for (const dit::LayerReport& layer : report.layers)
    layers.push_back(
        {{"sparsity", layer.attention.achieved_sparsity}, {"sparse", layer.attention.mode_used == attention::Mode::kSla2}});
  std::cout << nlohmann::json{{"first_bad_block", report.first_bad_block}, {"layers", layers}, {"progress", progress}}.dump()
            << '\n';
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("the diffusion transformer by itself");
  app.require_subcommand(1);
  Arguments a;
  CLI::App* run = app.add_subcommand("forward", "one pass");
  run->add_option("--model", a.model)->required();
  run->add_option("--input", a.input)->required();
  run->add_option("--output", a.output)->required();
  run->add_option("--precision", a.precision);
  run->add_option("--linear-bits", a.linear_bits, "16 or 8");
  run->add_option("--token-order", a.token_order, "raster, tiles or hilbert");
  run->add_option("--threads", a.threads);
  run->add_option("--token-chunk", a.token_chunk);
  run->callback([&] { forward(a); });
  probe::add_bench(app);
  probe::add_load(app);
  probe::add_linears(app);
  try {
    CLI11_PARSE(app, argc, argv);
  } catch (const sla2::Error& error) {
    std::cerr << error.status() << ": " << error.what() << '\n';
    return 1;
  }
  return 0;
}
