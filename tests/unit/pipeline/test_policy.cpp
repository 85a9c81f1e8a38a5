// SPDX-License-Identifier: Apache-2.0
// Dense guards, progress, and that the table's choices are the rooms' own names.
#include <catch2/catch.hpp>
#include <string>

#include "config/params/params.h"
#include "pipeline/progress.h"
#include "pipeline/settings.h"
#include "sampler/sampler.h"

using namespace sla2;
using namespace sla2::pipeline;

namespace {

std::string joined(const std::vector<std::string_view>& names) {
  std::string text;
  for (const std::string_view name : names) text += (text.empty() ? "" : "|") + std::string(name);
  return text;
}

int sparse_layers(const std::vector<dit::LayerAttention>& policy) {
  int count = 0;
  for (const dit::LayerAttention& layer : policy) count += layer.mode == attention::Mode::kSla2;
  return count;
}

}  // namespace

TEST_CASE("the table's choices are the sampler's names") {
  CHECK(std::string(config::find_param("sampler").choices) == joined(sampler::solver_names()));
  CHECK(std::string(config::find_param("schedule").choices) == "auto|" + joined(sampler::grid_names()));
}

TEST_CASE("the user's own words are those of every sparse layer, and of no full one") {
  AttentionSettings attention;
  attention.mode = attention::Mode::kSla2;
  attention.rules = parse_attention_schedule("layers 1: full; layers 2: sla1");
  attention.own.router = attention::Router::kVmoba;
  attention.own.protect_last = 2;
  attention.own.negligible = 0.25;
  const auto policy = attention_policy(attention, 0, 1, 3);
  CHECK((policy[0].router == attention::Router::kVmoba && policy[0].protect_last == 2 && policy[0].negligible == 0));
  CHECK(policy[1] == dit::LayerAttention{});
  CHECK((policy[2].router == attention::Router::kVmoba && policy[2].negligible == 0.25));  // it is sla1's alone
}

TEST_CASE("dense guards keep first and last steps and layers full") {
  AttentionSettings attention;
  attention.mode = attention::Mode::kSla2;
  attention.sparsity = 0.9;
  attention.steps_first = 2;
  attention.steps_last = 1;
  attention.layers_first = 1;
  attention.layers_last = 3;
  constexpr int kSteps = 10, kLayers = 8;
  for (int step = 0; step < kSteps; ++step) {
    const auto policy = attention_policy(attention, step, kSteps, kLayers);
    const bool dense = step < 2 || step == kSteps - 1;
    INFO("step " << step);
    CHECK(policy.empty() == dense);
    CHECK(sparse_layers(policy) == (dense ? 0 : kLayers - 4));
  }
  const auto policy = attention_policy(attention, 5, kSteps, kLayers);
  CHECK(policy.front().mode == attention::Mode::kFull);
  CHECK(policy[1].mode == attention::Mode::kSla2);
  CHECK(policy[1].sparsity == 0.9);
  CHECK(policy[5].mode == attention::Mode::kFull);
}

TEST_CASE("guards that cover everything, and full attention, leave no policy") {
  AttentionSettings attention;
  CHECK(attention_policy(attention, 0, 4, 4).empty());
  attention.mode = attention::Mode::kSla2;
  attention.layers_first = attention.layers_last = 2;
  CHECK(attention_policy(attention, 0, 4, 4).empty());
}

TEST_CASE("progress never goes back and ends at one") {
  ModelParts model;
  model.dit_config = {.dim = 64, .heads = 2, .head_dim = 32, .layers = 2, .ffn_dim = 128};
  Settings settings;
  settings.grid = {3, 4, 4};
  settings.width = settings.height = 64;
  settings.frames = 9;
  settings.schedule = sampler::make_schedule({"linear", 4, 1.0, {}});
  std::vector<Progress> seen;
  ProgressMeter meter(model, settings, [&](const Progress& progress) { seen.push_back(progress); });
  meter.report(Phase::kText, 1, 1, 1);
  meter.report(Phase::kLoad, 1, 1, 1);
  meter.report(Phase::kSample, 0, 4, 0);
  for (int i = 1; i <= 4; ++i) meter.report(Phase::kSample, i, 4, i / 4.0);
  meter.report(Phase::kLoad, 0, 1, 0);  // loaded again in fp32
  meter.say("a line");
  meter.report(Phase::kDecode, 9, 9, 1);
  meter.report(Phase::kDone, 1, 1, 1);
  for (size_t i = 1; i < seen.size(); ++i) CHECK(seen[i].fraction >= seen[i - 1].fraction);
  CHECK(seen.back().fraction == 1.0);
  CHECK(seen.back().left == 0.0);
  CHECK(seen[2].left < 0);   // nothing sampled yet
  CHECK(seen[3].left >= 0);  // one step tells
  CHECK(seen[8].message == "a line");
}
