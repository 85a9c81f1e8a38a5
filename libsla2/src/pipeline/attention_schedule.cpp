// SPDX-License-Identifier: Apache-2.0
#include "pipeline/attention_schedule.h"

#include <array>
#include <charconv>
#include <cmath>

namespace sla2::pipeline {
namespace {

using attention::Mode;

constexpr std::array<std::pair<std::string_view, Mode>, 7> kModes{{{"full", Mode::kFull},
                                                                   {"sla2", Mode::kSla2},
                                                                   {"sla1", Mode::kSla1},
                                                                   {"sparse_only", Mode::kSparseOnly},
                                                                   {"linear_only", Mode::kLinearOnly},
                                                                   {"l_plus_s", Mode::kLPlusS},
                                                                   {"pooled", Mode::kPooled}}};

constexpr std::array<std::pair<std::string_view, attention::Router>, 5> kRouters{{{"sla2", attention::Router::kSla2},
                                                                                  {"sla1", attention::Router::kSla1},
                                                                                  {"vsa", attention::Router::kVsa},
                                                                                  {"vmoba", attention::Router::kVmoba},
                                                                                  {"sparge", attention::Router::kSparge}}};

std::string_view trimmed(std::string_view text) {
  const size_t first = text.find_first_not_of(" \t\r\n");
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(" \t\r\n") - first + 1);
}

/// Calls each(part) for the parts between separators, empty ones included.
template <typename Each>
void split(std::string_view text, std::string_view separators, const Each& each) {
  for (;;) {
    const size_t end = text.find_first_of(separators);
    each(trimmed(text.substr(0, end)));
    if (end == std::string_view::npos) return;
    text.remove_prefix(end + 1);
  }
}

template <typename T>
std::optional<T> number(std::string_view text) {
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

[[noreturn]] void complain(std::string_view rule, std::string_view part, std::string_view expected) {
  fail(SLA2_E_ARGUMENT,
       "attention_schedule: in the rule \"{}\": {}, got \"{}\"; an example: \"sla2@0.9; layers 0,-1: full; steps 0-20%: full\"",
       rule, expected, part);
}

/// "3" or "3-7" or "-2" or "-4--2".
template <typename T>
std::pair<T, T> range(std::string_view rule, std::string_view part, std::string_view expected) {
  const size_t dash = part.find('-', 1);
  const auto first = number<T>(trimmed(part.substr(0, dash)));
  const auto last = dash == std::string_view::npos ? first : number<T>(trimmed(part.substr(dash + 1)));
  if (part.empty() || !first || !last) complain(rule, part, expected);
  return {*first, *last};
}

void read_steps(std::string_view rule, std::string_view part, AttentionRule& out) {
  constexpr std::string_view kExpected = "expected steps as 3-10 or 0-20%";
  out.of_all = part.ends_with('%');
  if (out.of_all) part = trimmed(part.substr(0, part.size() - 1));
  auto [first, last] = range<double>(rule, part, kExpected);
  const bool whole = first == std::floor(first) && last == std::floor(last);
  if (!(first >= 0 && last >= first) || (out.of_all ? last > 100 : !whole)) complain(rule, part, kExpected);
  constexpr double kPercent = 100;
  out.steps = out.of_all ? std::pair{first / kPercent, last / kPercent} : std::pair{first, last};
}

void read_layers(std::string_view rule, std::string_view part, AttentionRule& out) {
  split(part, ",", [&](std::string_view one) {
    const auto [first, last] = range<int64_t>(rule, one, "expected layers as 0-3,29 or -2--1");
    if ((first < 0) == (last < 0) && last < first) complain(rule, one, "expected a range that goes up");
    out.layers.emplace_back(first, last);
  });
}

/// "bits=8 router=vmoba", in any order.
void read_words(std::string_view rule, std::string_view words, AttentionRule& out) {
  split(words, " \t", [&](std::string_view word) {
    if (word.empty()) return;
    constexpr std::string_view kBits = "bits=", kRouter = "router=";
    if (word.starts_with(kBits)) {
      out.bits = number<int32_t>(word.substr(kBits.size()));
      constexpr int32_t kWhole = 16, kBytes = 8;
      if (!out.bits || (*out.bits != kWhole && *out.bits != kBytes)) complain(rule, word, "expected bits=8 or bits=16");
    } else if (word.starts_with(kRouter)) {
      out.router = router_of(word.substr(kRouter.size()));
      if (!out.router) complain(rule, word, "expected router=sla2, sla1, vsa, vmoba or sparge");
    } else {
      complain(rule, word, "expected bits=8, bits=16 or router=NAME after the mode");
    }
  });
}

void read_mode(std::string_view rule, std::string_view part, AttentionRule& out) {
  if (const size_t equals = part.find('='); equals != std::string_view::npos) {
    const size_t space = part.find_last_of(" \t", equals);
    if (space == std::string_view::npos) complain(rule, part, "expected a mode first, then bits=8, bits=16 or router=NAME");
    read_words(rule, part.substr(space + 1), out);
    part = trimmed(part.substr(0, space));
  }
  const size_t at = part.find('@');
  const auto mode = mode_of(trimmed(part.substr(0, at)));
  if (!mode) complain(rule, part, "expected full, sla2, sla1, sparse_only, linear_only, l_plus_s or pooled");
  out.mode = *mode;
  if (at == std::string_view::npos) return;
  out.sparsity = number<double>(trimmed(part.substr(at + 1)));
  if (!out.sparsity || !(*out.sparsity >= 0 && *out.sparsity <= 1))
    complain(rule, part, "expected a sparsity from 0 to 1 after @");
}

AttentionRule read_rule(std::string_view rule) {
  AttentionRule out;
  const size_t colon = rule.find(':');
  read_mode(rule, trimmed(colon == std::string_view::npos ? rule : rule.substr(colon + 1)), out);
  if (colon == std::string_view::npos) return out;
  std::string_view where = trimmed(rule.substr(0, colon));
  constexpr std::string_view kSteps = "steps ", kLayers = "layers ";
  const size_t layers = where.find(kLayers);
  const std::string_view before = trimmed(where.substr(0, layers));
  if (before.starts_with(kSteps)) {
    read_steps(rule, trimmed(before.substr(kSteps.size())), out);
  } else if (!before.empty()) {
    complain(rule, before, "expected \"steps …\" or \"layers …\" before the colon");
  }
  if (layers != std::string_view::npos) read_layers(rule, trimmed(where.substr(layers + kLayers.size())), out);
  if (where.empty()) complain(rule, where, "expected \"steps …\" or \"layers …\" before the colon");
  return out;
}

}  // namespace

bool AttentionRule::fits(int step, int steps_in_all, int64_t layer, int64_t layers_in_all) const {
  if (steps) {
    const double at = of_all ? step / static_cast<double>(steps_in_all) : step;
    // A window of fractions holds the steps that begin in it; one that ends at 100 % holds the last.
    if (at < steps->first || (of_all ? at >= steps->second : at > steps->second)) return false;
  }
  if (layers.empty()) return true;
  for (const auto& [first, last] : layers) {
    const int64_t low = first < 0 ? first + layers_in_all : first, high = last < 0 ? last + layers_in_all : last;
    if (layer >= low && layer <= high) return true;
  }
  return false;
}

std::vector<AttentionRule> parse_attention_schedule(std::string_view text) {
  std::vector<AttentionRule> rules;
  split(text, ";\n", [&](std::string_view rule) {
    if (!rule.empty()) rules.push_back(read_rule(rule));
  });
  return rules;
}

std::string_view mode_word(attention::Mode mode) {
  for (const auto& [word, value] : kModes)
    if (value == mode) return word;
  return "unknown";
}

std::optional<attention::Mode> mode_of(std::string_view word) {
  for (const auto& [name, value] : kModes)
    if (name == word) return value;
  return std::nullopt;
}

std::string_view router_word(attention::Router router) {
  for (const auto& [word, value] : kRouters)
    if (value == router) return word;
  return "unknown";
}

std::optional<attention::Router> router_of(std::string_view word) {
  for (const auto& [name, value] : kRouters)
    if (name == word) return value;
  return std::nullopt;
}

}  // namespace sla2::pipeline
