// SPDX-License-Identifier: Apache-2.0
// probe_latent noise SEED OUT COUNT...           tensors "0", "1", … drawn one after the other
//              resume SEED OUT COUNT...          the same through save() and restore() before each draw
//              patchify|unpatchify IN OUT        IN: "x" [C,F,H,W] and "tokens" [N,C*4]
//              rope HEAD_DIM F H W OUT
#include <cstdio>

#include "../probe_io.h"
#include "latent/latent.h"

namespace {

using namespace sla2;
using probe::Tensor;

void noise(int argc, char** argv, bool through_text) {
  latent::NoiseSource source(std::stoull(argv[2]));
  std::vector<Tensor> draws;
  for (int i = 4; i < argc; ++i) {
    if (through_text) {
      const std::string state = source.save();
      source = latent::NoiseSource(1);
      source.restore(state);
    }
    Tensor draw{std::to_string(i - 4), {std::stoll(argv[i])}, std::vector<float>(std::stoull(argv[i]))};
    source.fill_normal(draw.values);
    draws.push_back(std::move(draw));
  }
  probe::write_tensors(argv[3], draws);
}

void patches(const std::string& command, char** argv) {
  const auto file = weights::SafetensorsFile::open(argv[2]);
  const std::vector<int64_t> shape = file->find("x")->shape;
  latent::Latent latent{shape.at(0), shape.at(1), shape.at(2), shape.at(3), {}};
  const latent::Grid grid = latent::grid_of(latent);
  const std::vector<int64_t> token_shape = {grid.tokens(), latent.channels * 4};
  if (command == "patchify") {
    latent.values = probe::read_tensor(*file, "x");
    std::vector<float> tokens(latent.values.size());
    latent::patchify(latent, tokens);
    probe::write_tensors(argv[3], {{"tokens", token_shape, tokens}});
  } else {
    latent::unpatchify(probe::read_tensor(*file, "tokens"), latent);
    probe::write_tensors(argv[3], {{"x", shape, latent.values}});
  }
}

void rope(char** argv) {
  const latent::Grid grid{std::stoll(argv[3]), std::stoll(argv[4]), std::stoll(argv[5])};
  const latent::RopeTables t = latent::make_rope_tables(std::stoll(argv[2]), grid);
  probe::write_tensors(argv[6], {{"cos_t", {grid.frames, t.pairs_t}, t.cos_t},
                                 {"sin_t", {grid.frames, t.pairs_t}, t.sin_t},
                                 {"cos_h", {grid.height, t.pairs_h}, t.cos_h},
                                 {"sin_h", {grid.height, t.pairs_h}, t.sin_h},
                                 {"cos_w", {grid.width, t.pairs_w}, t.cos_w},
                                 {"sin_w", {grid.width, t.pairs_w}, t.sin_w}});
}

}  // namespace

int main(int argc, char** argv) try {
  const std::string command = argc > 1 ? argv[1] : "";
  if ((command == "noise" || command == "resume") && argc > 4) {
    noise(argc, argv, command == "resume");
  } else if ((command == "patchify" || command == "unpatchify") && argc == 4) {
    patches(command, argv);
  } else if (command == "rope" && argc == 7) {
    rope(argv);
  } else {
    std::fputs("see the head of probe_latent.cpp\n", stderr);
    return 2;
  }
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 1;
}
