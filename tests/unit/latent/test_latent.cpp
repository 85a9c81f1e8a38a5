// SPDX-License-Identifier: Apache-2.0
#include <catch2/catch.hpp>
#include <cmath>

#include "latent/latent.h"

using namespace sla2;
using Catch::Contains;

TEST_CASE("latent sizes follow the video") {
  const latent::Latent latent = latent::shape_for_video(16, 33, 128, 208);
  CHECK(latent.frames == 9);
  CHECK(latent.height == 16);
  CHECK(latent.width == 26);
  CHECK(latent::grid_of(latent).tokens() == 9 * 8 * 13);
  CHECK(latent::shape_for_video(16, 1, 16, 16).size() == 16 * 2 * 2);
}

TEST_CASE("illegal sizes name the nearest legal ones") {
  CHECK_THROWS_WITH(latent::shape_for_video(16, 16, 128, 128), Contains("got 16") && Contains("13 or 17"));
  CHECK_THROWS_WITH(latent::shape_for_video(16, 0, 128, 128), Contains("use 1"));
  CHECK_THROWS_WITH(latent::shape_for_video(16, 17, 100, 128), Contains("height") && Contains("96 or 112"));
  CHECK_THROWS_WITH(latent::shape_for_video(16, 17, 128, 5), Contains("width") && Contains("use 16"));
  CHECK_THROWS_WITH(latent::shape_for_video(16, 17, 128, 1 << 20), Contains("16384"));
  CHECK_THROWS_WITH(latent::shape_for_video(16, INT64_MAX, 128, 128), Contains("4093"));
  CHECK_THROWS_AS(latent::shape_for_video(16, INT64_MIN, 128, 128), Error);
}

TEST_CASE("noise: first numbers of torch.manual_seed(0); torch.randn(16)") {
  latent::NoiseSource source(0);
  std::vector<float> noise(16);
  source.fill_normal(noise);
  CHECK(noise[0] == -1.12583983f);  // printed by torch 2.13 on a CPU with AVX2
  CHECK(noise[1] == -1.15236020f);
  CHECK(noise[2] == -0.25057858f);
}

TEST_CASE("noise state survives as text, and bad text leaves the source alone") {
  latent::NoiseSource source(7), copy(8);
  std::vector<float> a(37), b(37), three(3);
  source.fill_normal(three);  // leaves a number behind
  const std::string state = source.save();
  copy.restore(state);
  source.fill_normal(three);
  source.fill_normal(a);
  copy.fill_normal(three);
  copy.fill_normal(b);
  CHECK(a == b);
  for (const std::string& bad : {std::string(), std::string("mt19937-torch-1"), state.substr(0, state.size() / 2), state + " 0",
                                 "mt19937-torch-1 625 " + state.substr(20), std::string("mt19937-torch-1 -1 0 0")}) {
    const std::string before = copy.save();
    CHECK_THROWS_AS(copy.restore(bad), Error);
    CHECK(copy.save() == before);
  }
}

TEST_CASE("patches and their inverse use opposite channel orders") {
  latent::Latent latent = latent::shape_for_video(2, 5, 16, 32);  // [2, 2, 2, 4]
  for (int64_t i = 0; i < latent.size(); ++i) latent.values.push_back(static_cast<float>(i));
  std::vector<float> tokens(latent.values.size());
  latent::patchify(latent, tokens);
  // token 0 of frame 0: channel 0 rows 0..1, columns 0..1, then channel 1 (16 values later)
  CHECK(std::vector<float>(tokens.begin(), tokens.begin() + 8) == std::vector<float>{0, 1, 4, 5, 16, 17, 20, 21});
  std::vector<float> head = {0, 16, 1, 17, 4, 20, 5, 21};
  head.resize(tokens.size());
  latent::unpatchify(head, latent);
  CHECK(latent.values[0] == 0);
  CHECK(latent.values[5] == 5);
  CHECK(latent.values[16] == 16);
  CHECK(latent.values[21] == 21);
  CHECK_THROWS_AS(latent::patchify(latent, std::span(tokens).first(3)), Error);
}

TEST_CASE("RoPE tables have the split of the head size") {
  const latent::RopeTables t = latent::make_rope_tables(128, {3, 4, 5});
  CHECK(t.pairs_t == 22);
  CHECK(t.pairs_h == 21);
  CHECK(t.pairs_w == 21);
  CHECK(t.cos_t.size() == 3 * 22);
  CHECK(t.cos_t[0] == 1.0f);
  CHECK(t.sin_w[4 * 21] == static_cast<float>(std::sin(4.0)));
  CHECK_THROWS_AS(latent::make_rope_tables(4, {1, 1, 1}), Error);
  CHECK_THROWS_AS(latent::make_rope_tables(127, {1, 1, 1}), Error);
}
