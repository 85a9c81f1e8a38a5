// SPDX-License-Identifier: Apache-2.0
// Values checked against the table, kept as canonical text.
#include "config/params/params.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numeric>

namespace sla2::config {

namespace {

std::string_view trimmed(std::string_view text) {
  const auto first = text.find_first_not_of(" \t\r\n");
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(" \t\r\n") - first + 1);
}

/// A whole text as a number, "." as the decimal point whatever the locale; false if anything is left over.
template <typename T>
bool parse_whole(std::string_view text, T* value) {
  if (!text.empty() && text.front() == '+') text.remove_prefix(1);
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), *value);
  return error == std::errc() && end == text.data() + text.size() && !text.empty();
}

std::string with_unit(const std::string& number, const ParamRow& row) {
  return row.unit[0] == '\0' ? number : number + " " + row.unit;
}

void check_range(const ParamRow& row, double value, std::string_view given) {
  SLA2_CHECK(std::isfinite(value) && value >= row.minimum && value <= row.maximum, SLA2_E_ARGUMENT,
             "{} = {} is out of range: expected {} to {}", row.name, given, number_text(row.minimum),
             with_unit(number_text(row.maximum), row));
}

std::string checked_bool(const ParamRow& row, std::string_view value) {
  constexpr std::array<std::string_view, 4> kYes{"true", "1", "yes", "on"}, kNo{"false", "0", "no", "off"};
  if (std::find(kYes.begin(), kYes.end(), value) != kYes.end()) return "true";
  if (std::find(kNo.begin(), kNo.end(), value) != kNo.end()) return "false";
  fail(SLA2_E_ARGUMENT, "{} = \"{}\" is neither true nor false", row.name, value);
}

std::vector<std::string_view> split(std::string_view text, char separator) {
  std::vector<std::string_view> parts;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(separator, begin), text.size());
    parts.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return parts;
}

std::string checked_choice(const ParamRow& row, std::string_view value) {
  const auto choices = split(row.choices, '|');
  if (std::find(choices.begin(), choices.end(), value) != choices.end()) return std::string(value);
  const auto near = nearest_name(value, choices);
  fail(SLA2_E_ARGUMENT, "{} = \"{}\" is not one of {}{}", row.name, value, row.choices,
       near.empty() ? std::string() : fmt::format("; did you mean \"{}\"?", near));
}

std::string checked_list(const ParamRow& row, std::string_view value) {
  std::string result;
  if (value.empty()) return result;
  for (const std::string_view raw : split(value, ',')) {
    const std::string_view part = trimmed(raw);
    double number = 0;
    SLA2_CHECK(parse_whole(part, &number), SLA2_E_ARGUMENT, "{}: \"{}\" is not a number; expected a list such as 1,0.9,0.5",
               row.name, part);
    check_range(row, number, part);
    result += (result.empty() ? "" : ",") + number_text(number);
  }
  return result;
}

/// Canonical text of a value, or ARGUMENT.
std::string checked(const ParamRow& row, std::string_view raw) {
  const std::string_view value = trimmed(raw);
  switch (row.type) {
    case ParamType::kInt: {
      int64_t number = 0;
      SLA2_CHECK(parse_whole(value, &number), SLA2_E_ARGUMENT, "{} = \"{}\" is not a whole number", row.name, value);
      check_range(row, static_cast<double>(number), value);
      return std::to_string(number);
    }
    case ParamType::kFloat: {
      double number = 0;
      SLA2_CHECK(parse_whole(value, &number), SLA2_E_ARGUMENT, "{} = \"{}\" is not a number", row.name, value);
      check_range(row, number, value);
      return number_text(number);
    }
    case ParamType::kBool: return checked_bool(row, value);
    case ParamType::kChoice: return checked_choice(row, value);
    case ParamType::kFloatList: return checked_list(row, value);
    case ParamType::kString:
    case ParamType::kPath: return std::string(raw);  // white space may be meant
  }
  fail(SLA2_E_INTERNAL, "parameter {} has no type", row.name);
}

nlohmann::ordered_json typed_value(const ParamRow& row, const std::string& text) {
  switch (row.type) {
    case ParamType::kInt: return std::stoll(text);
    case ParamType::kFloat:
    case ParamType::kFloatList: return nlohmann::ordered_json::parse(row.type == ParamType::kFloat ? text : "[" + text + "]");
    case ParamType::kBool: return text == "true";
    default: return text;
  }
}

/// Edit distance with insert, delete, replace at cost 1.
size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t above = row[j];
      row[j] = std::min({above + 1, row[j - 1] + 1, diagonal + (a[i - 1] == b[j - 1] ? 0 : 1)});
      diagonal = above;
    }
  }
  return row[b.size()];
}

}  // namespace

std::string number_text(double value) {
  std::array<char, 32> buffer{};
  const auto [end, error] = std::to_chars(buffer.data(), buffer.data() + buffer.size(), value);
  return error == std::errc() ? std::string(buffer.data(), end) : std::string("nan");
}

std::string_view nearest_name(std::string_view name, std::span<const std::string_view> candidates) {
  constexpr size_t kLongestTypo = 64;  // beyond this nobody mistyped, and the distance costs quadratic time
  if (name.size() > kLongestTypo) return {};
  std::string_view best;
  size_t best_distance = std::max<size_t>(2, name.size() / 3) + 1;
  for (const std::string_view candidate : candidates) {
    const size_t distance = edit_distance(name, candidate);
    if (distance < best_distance) {
      best_distance = distance;
      best = candidate;
    }
  }
  return best;
}

const ParamRow& find_param(std::string_view name) {
  const auto table = param_table();
  const auto found = std::find_if(table.begin(), table.end(), [&](const ParamRow& row) { return name == row.name; });
  if (found != table.end()) return *found;
  std::vector<std::string_view> names;
  for (const ParamRow& row : table) names.emplace_back(row.name);
  const auto near = nearest_name(name, names);
  fail(SLA2_E_ARGUMENT, "unknown parameter \"{}\"{}", name.substr(0, 80),
       near.empty() ? std::string("; `sla2 generate --help` lists them") : fmt::format("; did you mean \"{}\"?", near));
}

void ParamSet::set_text(std::string_view name, std::string_view value) {
  const ParamRow& row = find_param(name);
  values_.insert_or_assign(row.name, checked(row, value));
}

void ParamSet::unset(std::string_view name) { values_.erase(find_param(name).name); }

bool ParamSet::is_set(std::string_view name) const { return values_.contains(find_param(name).name); }

std::string ParamSet::text(std::string_view name) const {
  const ParamRow& row = find_param(name);
  const auto found = values_.find(std::string_view(row.name));
  return found == values_.end() ? row.default_text : found->second;
}

int64_t ParamSet::integer(std::string_view name) const {
  int64_t value = 0;
  const std::string stored = text(name);
  SLA2_CHECK(parse_whole<int64_t>(stored, &value), SLA2_E_INTERNAL, "parameter {} holds \"{}\", not a whole number", name,
             stored);
  return value;
}

double ParamSet::number(std::string_view name) const {
  double value = 0;
  const std::string stored = text(name);
  SLA2_CHECK(parse_whole(std::string_view(stored), &value), SLA2_E_INTERNAL, "parameter {} holds \"{}\", not a number", name,
             stored);
  return value;
}

bool ParamSet::flag(std::string_view name) const { return text(name) == "true"; }

std::vector<double> ParamSet::numbers(std::string_view name) const {
  std::vector<double> values;
  const std::string stored = text(name);
  if (stored.empty()) return values;
  for (const std::string_view part : split(stored, ',')) {
    double value = 0;
    SLA2_CHECK(parse_whole(part, &value), SLA2_E_INTERNAL, "parameter {} holds \"{}\", not a list of numbers", name, stored);
    values.push_back(value);
  }
  return values;
}

void ParamSet::fill_from(const ParamSet& defaults) {
  for (const auto& [name, value] : defaults.values_) values_.try_emplace(name, value);
}

std::string ParamSet::to_json() const {
  nlohmann::ordered_json object = nlohmann::ordered_json::object();
  for (const ParamRow& row : param_table()) {
    const auto found = values_.find(std::string_view(row.name));
    if (found != values_.end()) object[row.name] = typed_value(row, found->second);
  }
  return object.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

void ParamSet::merge_json(std::string_view json, std::string_view where) {
  ParamSet merged = *this;
  for (const PresetEntry& entry : parse_preset(json, where)) {
    try {
      const ParamRow& row = find_param(entry.key);
      const bool is_number = row.type == ParamType::kInt || row.type == ParamType::kFloat;
      using Form = PresetEntry::Form;
      const Form expected = is_number                           ? Form::kNumber
                            : row.type == ParamType::kBool      ? Form::kBool
                            : row.type == ParamType::kFloatList ? Form::kNumberList
                                                                : Form::kString;
      // Choices such as block_q are numbers to people; a number is fine where its text is one of the choices.
      const bool fits = entry.form == expected || (row.type == ParamType::kChoice && entry.form == Form::kNumber);
      constexpr std::array<const char*, 4> kFormNames{"a number", "true or false", "a text in quotes", "a list of numbers"};
      SLA2_CHECK(fits, SLA2_E_ARGUMENT, "expected {}, got {}", kFormNames[static_cast<size_t>(expected)],
                 kFormNames[static_cast<size_t>(entry.form)]);
      merged.set_text(entry.key, entry.text);
    } catch (const Error& error) {
      fail(error.status(), "{}, line {}, key \"{}\": {}", where, entry.line, entry.key, error.what());
    }
  }
  values_ = std::move(merged.values_);
}

}  // namespace sla2::config
