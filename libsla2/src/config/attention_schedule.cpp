// SPDX-License-Identifier: Apache-2.0
#include "config/attention_schedule.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>

#include "core/core.h"

namespace sla2::config {
namespace {

constexpr std::array<std::string_view, 5> kModes = {"full", "sparse_only", "linear_only", "sla1", "sla2"};
constexpr std::string_view kSteps = "steps";

std::string_view trimmed(std::string_view text) {
  const size_t first = text.find_first_not_of(" \t\n\r");
  return first == std::string_view::npos ? std::string_view() : text.substr(first, text.find_last_not_of(" \t\n\r") - first + 1);
}

/// Cuts `text` at the first `mark`; without one everything is the first part.
std::pair<std::string_view, std::string_view> cut(std::string_view text, char mark) {
  const size_t at = text.find(mark);
  if (at == std::string_view::npos) return {trimmed(text), {}};
  return {trimmed(text.substr(0, at)), trimmed(text.substr(at + 1))};
}

template <typename T>
T number(std::string_view text, std::string_view rule, const char* what, T low, T high) {
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  SLA2_CHECK(error == std::errc() && end == text.data() + text.size() && value >= low && value <= high, SLA2_E_ARGUMENT,
             "schedule: rule '{}': expected {} from {} to {}, got '{}'", rule, what, low, high, text);
  return value;
}

/// "a-b", or "a" for both.
template <typename T>
std::pair<T, T> range(std::string_view text, std::string_view rule, const char* what, T low, T high) {
  const auto [from, to] = cut(text, '-');
  const T first = number(from, rule, what, low, high);
  const T last = text.find('-') == std::string_view::npos ? first : number(to, rule, what, low, high);
  SLA2_CHECK(first <= last, SLA2_E_ARGUMENT, "schedule: rule '{}': {} '{}' go backwards; expected the smaller one first", rule,
             what, text);
  return {first, last};
}

LayerChoice parse_choice(std::string_view text, std::string_view rule) {
  const auto [name, sparsity] = cut(text, '@');
  const auto mode = std::find(kModes.begin(), kModes.end(), name);
  SLA2_CHECK(mode != kModes.end(), SLA2_E_ARGUMENT,
             "schedule: rule '{}': expected one of full, sparse_only, linear_only, sla1, sla2, got '{}'", rule, name);
  LayerChoice choice{static_cast<LayerMode>(mode - kModes.begin()), 0};
  const bool routed = choice.mode != LayerMode::kFull && choice.mode != LayerMode::kLinearOnly;
  SLA2_CHECK(routed == (text.find('@') != std::string_view::npos), SLA2_E_ARGUMENT, "schedule: rule '{}': {}", rule,
             routed ? "expected mode@sparsity, such as sla2@0.9" : "full and linear_only take no sparsity");
  if (routed) choice.sparsity = number(sparsity, rule, "a sparsity", 0.0, 1.0);
  return choice;
}

}  // namespace

AttentionSchedule::Rule AttentionSchedule::parse_rule(std::string_view text) {
  constexpr int64_t kMostLayers = 100000;
  SLA2_CHECK(text.find(':') != std::string_view::npos, SLA2_E_ARGUMENT,
             "schedule: rule '{}': expected [steps A-B%] [layers]:mode[@sparsity], such as 4-29:sla2@0.9", text);
  auto [where, choice] = cut(text, ':');
  Rule rule;
  rule.choice = parse_choice(choice, text);
  if (where.starts_with(kSteps)) {
    const auto [window, layers] = cut(where.substr(kSteps.size()), '%');
    SLA2_CHECK(where.find('%') != std::string_view::npos, SLA2_E_ARGUMENT,
               "schedule: rule '{}': expected steps in percent, such as steps 0-20%", text);
    const auto [from, to] = range(window, text, "steps in percent", 0.0, 100.0);
    rule.from_percent = from, rule.to_percent = to;
    where = layers;
  }
  if (where.empty() || where == "*") return rule;
  const auto [first, last] = range<int64_t>(where, text, "layers", 0, kMostLayers);
  rule.first = first, rule.last = last;
  return rule;
}

AttentionSchedule AttentionSchedule::parse(std::string_view text) {
  AttentionSchedule schedule;
  while (!text.empty()) {
    const size_t end = std::min(text.find(';'), text.size());
    const std::string_view rule = trimmed(text.substr(0, end));
    if (!rule.empty()) schedule.rules_.push_back(parse_rule(rule));
    text = text.substr(std::min(end + 1, text.size()));
  }
  return schedule;
}

LayerChoice AttentionSchedule::at(int64_t layer, int64_t step, int64_t steps) const {
  constexpr double kPercent = 100;
  const double scaled = kPercent * static_cast<double>(step), whole = static_cast<double>(steps);
  const auto applies = [&](const Rule& r) {
    return layer >= r.first && layer <= r.last && scaled >= r.from_percent * whole && scaled < r.to_percent * whole;
  };
  const auto rule = std::find_if(rules_.rbegin(), rules_.rend(), applies);
  return rule == rules_.rend() ? LayerChoice{} : rule->choice;
}

std::string AttentionSchedule::text() const {
  std::string result;
  for (const Rule& r : rules_) {
    if (!result.empty()) result += "; ";
    if (r.from_percent > 0 || r.to_percent < 100) result += fmt::format("steps {}-{}% ", r.from_percent, r.to_percent);
    result += r.last == kAll ? "*" : fmt::format("{}-{}", r.first, r.last);
    result += fmt::format(":{}", kModes[static_cast<size_t>(r.choice.mode)]);
    if (r.choice.mode != LayerMode::kFull && r.choice.mode != LayerMode::kLinearOnly)
      result += fmt::format("@{}", r.choice.sparsity);
  }
  return result;
}

int64_t AttentionSchedule::last_layer() const {
  int64_t last = -1;
  for (const Rule& r : rules_) last = std::max(last, r.last == kAll ? -1 : r.last);
  return last;
}

}  // namespace sla2::config
