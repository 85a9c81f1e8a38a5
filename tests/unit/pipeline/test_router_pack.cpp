// SPDX-License-Identifier: Apache-2.0
// What a router pack makes of the layers' attention; files, models and messages: tests/python and tests/cli.
#include <catch2/catch.hpp>

#include "pipeline/settings.h"

using namespace sla2;
using namespace sla2::pipeline;
using attention::Mix;
using attention::Mode;

namespace {

/// Three layers: router and mixing numbers for two κ, a router alone, nothing.
std::shared_ptr<weights::RouterPack> small_pack() {
  auto pack = std::make_shared<weights::RouterPack>();
  pack->metadata.kappa = {0.5, 0.1};
  pack->layers.resize(3);
  pack->layers[0].router_q = pack->layers[0].router_k = pack->layers[1].router_q = pack->layers[1].router_k = {1.0F};
  pack->layers[0].mix = {{1.0F}, {2.0F}};
  return pack;
}

AttentionSettings with_pack(Mix mix) {
  AttentionSettings attention;
  attention.mode = attention.pack_mode = Mode::kSla2;
  attention.sparsity = 0.5;
  attention.pack = small_pack();
  attention.mix = mix;
  attention.router = attention::Router::kSla1;
  attention.smooth_k = false;
  return attention;
}

}  // namespace

TEST_CASE("a layer without numbers for mixing keeps the default mixing") {
  const auto policy = attention_policy(with_pack(Mix::kHeadScalar), 0, 1, 3);
  CHECK(policy[0].mix == Mix::kHeadScalar);
  CHECK(policy[1].mix == Mix::kHeadAffineLse);
  CHECK(policy[2].mix == Mix::kHeadAffineLse);
  CHECK((policy[0].learned && policy[1].learned && !policy[2].learned));
  for (const auto& layer : policy) {
    CHECK(layer.router == attention::Router::kSla1);
    CHECK_FALSE(layer.smooth_k);
  }
  for (const auto& layer : attention_policy(with_pack(Mix::kConst), 0, 1, 3)) CHECK(layer.mix == Mix::kConst);
}

TEST_CASE("each sparsity takes the numbers of its nearest kappa") {
  auto attention = with_pack(Mix::kHeadAffineLse);
  attention.rules = parse_attention_schedule("sla2@0.5; steps 1: sla2@0.9; steps 2: sla2@0.95");
  CHECK(attention_policy(attention, 0, 3, 3)[0].mix_set == 0);
  CHECK(attention_policy(attention, 1, 3, 3)[0].mix_set == 1);
  CHECK(attention_policy(attention, 2, 3, 3)[0].mix_set == 1);
  CHECK(attention_policy(attention, 1, 3, 3)[1].mix_set == 0);
}

TEST_CASE("layers that run another mode, or full attention, read nothing of the pack") {
  auto attention = with_pack(Mix::kHeadScalar);
  attention.rules = parse_attention_schedule("layers 1: full; layers 0: pooled");
  attention.min_tokens = 100;
  const auto policy = attention_policy(attention, 0, 1, 3);
  CHECK(policy[1] == dit::LayerAttention{});
  CHECK(policy[0].mode == Mode::kPooled);
  CHECK(policy[0].router == attention::Router::kSla2);
  CHECK((policy[0].smooth_k && !policy[0].learned && policy[0].min_tokens == 100));
  CHECK((policy[2].mode == Mode::kSla2 && !policy[2].smooth_k && policy[2].min_tokens == 100));
}
