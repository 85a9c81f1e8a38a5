// SPDX-License-Identifier: Apache-2.0
#include <catch2/catch.hpp>

#include "config/params/params.h"
#include "pipeline/settings.h"

using namespace sla2;
using namespace sla2::pipeline;
using attention::Mode;
using Catch::Contains;

namespace {

AttentionSettings settings_of(const std::string& rules) {
  AttentionSettings attention;
  attention.sparsity = 0.5;
  attention.rules = parse_attention_schedule(rules);
  return attention;
}

/// One letter per layer: F full, 2 sla2, 1 sla1, S sparse_only, L linear_only, + l_plus_s, P pooled.
std::string letters(const AttentionSettings& attention, int step, int steps, int64_t layers) {
  const auto policy = attention_policy(attention, step, steps, layers);
  std::string text;
  for (const auto& layer : policy) text += "?F21SL+P"[static_cast<size_t>(layer.mode)];
  return text;
}

}  // namespace

TEST_CASE("the last rule that fits decides") {
  const auto attention = settings_of("sla2@0.9; layers 0,-1: full; steps 0-20%: full; steps 5-6 layers 2-3: sparse_only@0.8");
  CHECK(letters(attention, 0, 10, 6).empty());
  CHECK(letters(attention, 1, 10, 6).empty());
  CHECK(letters(attention, 2, 10, 6) == "F2222F");
  CHECK(letters(attention, 5, 10, 6) == "F2SS2F");
  CHECK(letters(attention, 6, 10, 6) == "F2SS2F");
  CHECK(letters(attention, 7, 10, 6) == "F2222F");
  const auto policy = attention_policy(attention, 5, 10, 6);
  CHECK(policy[1].sparsity == 0.9);
  CHECK(policy[2].sparsity == 0.8);
  CHECK(attention_kinds(attention, 10, 6).size() == 2);
}

TEST_CASE("bits and router by rule; the others have the job's own") {
  auto attention = settings_of("sla2; layers 1: sla2@0.9 bits=8 router=vmoba; layers 2: full bits=8; layers 3: sla2 router=vsa");
  attention.own.router = attention::Router::kSparge;
  const auto policy = attention_policy(attention, 0, 1, 5);
  CHECK((policy[0].bits == 16 && policy[0].router == attention::Router::kSparge));
  CHECK((policy[1].bits == 8 && policy[1].router == attention::Router::kVmoba && policy[1].sparsity == 0.9));
  CHECK((policy[2].mode == Mode::kFull && policy[2].bits == 8 && policy[2].router == attention::Config{}.router));
  CHECK((policy[3].bits == 16 && policy[3].router == attention::Router::kVsa && policy[3].sparsity == 0.5));
  CHECK(policy[4] == policy[0]);
}

TEST_CASE("every mode, negative ranges, new lines, and the job's own sparsity") {
  const auto attention = settings_of(
      "layers 0: sla1\nlayers 1: sparse_only;\n layers 2:linear_only; layers -4--3: l_plus_s; layers 5-5:pooled;layers 6 : sla2");
  CHECK(letters(attention, 0, 1, 7) == "1SL++P2");
  CHECK(attention_policy(attention, 0, 1, 7)[6].sparsity == 0.5);
  CHECK(settings_of(" ; ;").rules.empty());
}

TEST_CASE("windows of percents hold the steps that begin in them") {
  const auto first = settings_of("steps 0-50%: sla2"), last = settings_of("steps 50-100%: sla2");
  for (int step = 0; step < 5; ++step) {
    CHECK(letters(first, step, 5, 1) == (step < 3 ? "2" : ""));
    CHECK(letters(last, step, 5, 1) == (step < 3 ? "" : "2"));
  }
}

TEST_CASE("guards win over rules, and eight bits reach full layers too") {
  auto attention = settings_of("sla2");
  attention.layers_first = 1;
  attention.steps_last = 1;
  CHECK(letters(attention, 0, 2, 3) == "F22");
  CHECK(letters(attention, 1, 2, 3).empty());
  attention.bits = 8;
  CHECK(attention_policy(attention, 0, 2, 3)[0].bits == 16);
  CHECK(attention_policy(attention, 0, 2, 3)[1].bits == 8);
  auto full = settings_of("");
  full.bits = 8;
  CHECK(letters(full, 0, 1, 2) == "FF");
  CHECK(attention_policy(full, 0, 1, 2)[0].bits == 8);
}

TEST_CASE("a rule that cannot be says which and why") {
  const auto message = [](const std::string& rules) {
    try {
      parse_attention_schedule(rules);
    } catch (const Error& error) {
      CHECK(error.status() == SLA2_E_ARGUMENT);
      return std::string(error.what());
    }
    return std::string();
  };
  CHECK_THAT(message("sla2; layers 0: sla3"), Contains("layers 0: sla3") && Contains("got \"sla3\"") && Contains("example"));
  CHECK_THAT(message("sla2@1.5"), Contains("0 to 1"));
  CHECK_THAT(message("sla2@x"), Contains("0 to 1"));
  CHECK_THAT(message("sla2@x bits=8"), Contains("0 to 1"));
  CHECK_THAT(message("sla2 bits=9"), Contains("bits=8") && Contains("got \"bits=9\""));
  CHECK_THAT(message("sla2 router=given"), Contains("vmoba"));
  CHECK_THAT(message("sla2 bits=8 tau=1"), Contains("router=NAME"));
  CHECK_THAT(message("bits=8"), Contains("mode first"));
  CHECK_THAT(message("layers a: full"), Contains("got \"a\""));
  CHECK_THAT(message("layers 0,,2: full"), Contains("expected layers"));
  CHECK_THAT(message("layers 5-2: full"), Contains("goes up"));
  CHECK_THAT(message("steps 20-10%: full"), Contains("expected steps"));
  CHECK_THAT(message("steps 0-120%: full"), Contains("expected steps"));
  CHECK_THAT(message("steps 0.5-3: full"), Contains("expected steps"));
  CHECK_THAT(message("step 0-3: full"), Contains("before the colon"));
  CHECK_THAT(message(": full"), Contains("before the colon"));
}

TEST_CASE("the table's choices of attention are the modes' words") {
  std::string all;
  for (int mode = 1; mode <= 7; ++mode) all += (all.empty() ? "" : "|") + std::string(mode_word(static_cast<Mode>(mode)));
  CHECK(std::string(config::find_param("attention").choices) == all);
}
