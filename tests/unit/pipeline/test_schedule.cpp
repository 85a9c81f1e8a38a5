// SPDX-License-Identifier: Apache-2.0
// A schedule of attention modes: what its text means, what is refused, and how it reaches the layers.
#include <catch2/catch.hpp>

#include "config/attention_schedule.h"
#include "core/core.h"
#include "pipeline/settings.h"

namespace sla2 {
namespace {

using config::AttentionSchedule;
using config::LayerChoice;
using config::LayerMode;

TEST_CASE("later rules win, and layers that none names run full", "[schedule]") {
  const auto s =
      AttentionSchedule::parse("0-3:full; 4-29:sla2@0.9; 7:linear_only; steps 0-20%:full ; steps 50-100% 5-6 : sla1@0.95;");
  const LayerChoice full{}, sla2{LayerMode::kSla2, 0.9};
  CHECK(s.at(0, 20, 50) == full);
  CHECK(s.at(3, 20, 50) == full);
  CHECK(s.at(4, 20, 50) == sla2);
  CHECK(s.at(29, 24, 50) == sla2);
  CHECK(s.at(30, 24, 50) == full);
  CHECK(s.at(7, 24, 50) == LayerChoice{LayerMode::kLinearOnly, 0});
  CHECK(s.at(5, 9, 50) == full);  // steps 0 to 9 of 50 are the first 20 %
  CHECK(s.at(5, 10, 50) == sla2);
  CHECK(s.at(5, 24, 50) == sla2);
  CHECK(s.at(5, 25, 50) == LayerChoice{LayerMode::kSla1, 0.95});
  CHECK(s.at(5, 49, 50) == LayerChoice{LayerMode::kSla1, 0.95});
  CHECK(s.last_layer() == 29);
  CHECK(AttentionSchedule::parse("").at(3, 0, 1) == full);
  CHECK(AttentionSchedule::parse("*:sparse_only@0.5").at(99, 0, 1) == LayerChoice{LayerMode::kSparseOnly, 0.5});
}

TEST_CASE("a schedule survives its own text", "[schedule]") {
  const std::string text = "0-3:full; *:sla2@0.9; steps 12.5-50% 7-7:linear_only";
  CHECK(AttentionSchedule::parse(text).text() == text);
  CHECK(AttentionSchedule::parse(" 2 : sla1@1 ").text() == "2-2:sla1@1");
}

TEST_CASE("what a schedule cannot mean is refused and named", "[schedule]") {
  for (const char* const text :
       {"full", "1-2:sla3@0.9", "1-2:sla2", "1-2:full@0.5", "2-1:full", "x:full", "1-2:sla2@1.5", "1-2:sla2@0.9x",
        "steps 0-20:full", "steps 20-10%:full", "steps 0-120%:full", "-1:full", "1-:full", "1:sla2@"}) {
    INFO(text);
    CHECK_THROWS_WITH(AttentionSchedule::parse(text), Catch::Contains(text));
  }
}

TEST_CASE("a schedule reaches the layers with the blocks of the settings", "[schedule]") {
  pipeline::AttentionSettings settings;
  settings.block_q = 64;
  settings.schedule = AttentionSchedule::parse("1-2:sla2@0.75; 3:sparse_only@0.5; steps 0-50%:full");
  CHECK(pipeline::attention_policy(settings, 4, 10, 5).empty());
  const auto policy = pipeline::attention_policy(settings, 5, 10, 5);
  REQUIRE(policy.size() == 5);
  CHECK(policy[0].mode == attention::Mode::kFull);
  CHECK(policy[1].mode == attention::Mode::kSla2);
  CHECK(policy[2].sparsity == 0.75);
  CHECK(policy[3].mode == attention::Mode::kSparseOnly);
  CHECK(policy[3].block_q == 64);
}

}  // namespace
}  // namespace sla2
