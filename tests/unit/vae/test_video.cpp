// SPDX-License-Identifier: Apache-2.0
#include <catch2/catch.hpp>
#include <cmath>
#include <limits>

#include "video/video.h"

using namespace sla2;

TEST_CASE("frames become bytes, rounded and clamped") {
  const std::vector<float> values{-1.0F, 1.0F, 0.0F, 2.0F, -3.0F, 0.5F};  // [1,3,1,2]
  std::vector<uint8_t> rgb;
  video::frames_to_rgb({0, 1, 1, 2, values.data()}, rgb);
  CHECK(rgb == std::vector<uint8_t>{0, 128, 0, 255, 255, 191});
}

TEST_CASE("a NaN frame is named") {
  std::vector<float> values(2 * 3 * 4 * 4, 0.0F);
  values[3 * 16 + 7] = std::numeric_limits<float>::quiet_NaN();
  std::vector<uint8_t> rgb;
  try {
    video::frames_to_rgb({5, 2, 4, 4, values.data()}, rgb);
    FAIL("no error");
  } catch (const Error& error) {
    CHECK(error.status() == SLA2_E_NUMERIC);
    CHECK(std::string(error.what()).find("frame 6") != std::string::npos);
  }
}

TEST_CASE("previews use the published, the given or the neutral factors") {
  latent::Latent x0{16, 1, 1, 1, std::vector<float>(16, 0.0F)};
  std::vector<uint8_t> rgb;
  video::preview_rgb(x0, {}, rgb);
  CHECK(rgb == std::vector<uint8_t>{104, 116, 85});  // the bias alone: (1 + b) / 2 * 255
  x0.values[2] = 1.0F;                               // channel 2 adds .3568 .2548 .1747
  video::preview_rgb(x0, {}, rgb);
  CHECK(rgb == std::vector<uint8_t>{150, 149, 107});

  latent::Latent small{2, 1, 1, 1, {1.0F, -1.0F}};
  video::preview_rgb(small, {0.5F, 0.0F, 0.0F, 0.0F, 0.5F, 0.0F, 0.0F, 0.0F, 1.0F}, rgb);
  CHECK(rgb == std::vector<uint8_t>{191, 64, 255});
  video::preview_rgb(small, {}, rgb);
  CHECK(rgb.size() == 3);
  CHECK_THROWS_AS(video::preview_rgb(small, {1.0F}, rgb), Error);
}
