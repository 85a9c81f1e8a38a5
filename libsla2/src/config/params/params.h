// SPDX-License-Identifier: Apache-2.0
// The door of config/params: one table of parameters, and a set of values checked against it.
// Enters: text (command line, presets, metadata). Leaves: typed values. A value is kept as canonical text, so what is
// saved in a video, a checkpoint or a preset is exactly what was checked.
#pragma once
#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/error.h"

namespace sla2::config {

enum class ParamType : int32_t { kInt = 1, kFloat = 2, kBool = 3, kString = 4, kChoice = 5, kPath = 6, kFloatList = 7 };

/// One row. Strings are literals with static lifetime.
struct ParamRow {
  const char* name;
  ParamType type;
  const char* group;
  const char* help;
  const char* unit;
  const char* choices;       ///< "a|b|c" for kChoice
  const char* default_text;  ///< "" where the model or the machine decides
  double minimum, maximum, step;
  bool advanced;
};

[[nodiscard]] std::span<const ParamRow> param_table() noexcept;
/// Throws ARGUMENT for an unknown name, suggesting the nearest.
[[nodiscard]] const ParamRow& find_param(std::string_view name);
/// The candidate with the smallest edit distance, "" if none is near enough to be a typing mistake.
[[nodiscard]] std::string_view nearest_name(std::string_view name, std::span<const std::string_view> candidates);

/// Values for the table's rows; unset rows fall back to `defaults` of the model, then to the table.
class ParamSet {
 public:
  /// Throws ARGUMENT: unknown name, not a number, out of range, not one of the choices. Unchanged on failure.
  void set_text(std::string_view name, std::string_view value);
  void unset(std::string_view name);
  [[nodiscard]] bool is_set(std::string_view name) const;
  /// Value, or the table's default.
  [[nodiscard]] std::string text(std::string_view name) const;
  [[nodiscard]] int64_t integer(std::string_view name) const;
  [[nodiscard]] double number(std::string_view name) const;
  [[nodiscard]] bool flag(std::string_view name) const;
  [[nodiscard]] std::vector<double> numbers(std::string_view name) const;

  /// Set every value of a JSON object, or of a preset ({"name", "description", "params": {…}}). Nothing changes on failure;
  /// the error says line and key. `where` names the text ("presets/demo.json").
  void merge_json(std::string_view json, std::string_view where = "parameters");
  /// Set values that are not set here.
  void fill_from(const ParamSet& defaults);
  [[nodiscard]] std::string to_json() const;  ///< set values, typed, in table order
  [[nodiscard]] const std::map<std::string, std::string, std::less<>>& values() const noexcept { return values_; }

 private:
  std::map<std::string, std::string, std::less<>> values_;
};

/// One entry of a parsed preset or metadata object.
struct PresetEntry {
  std::string key;
  int line = 0;
  std::string text;  ///< as set_text takes it
  enum class Form : uint8_t { kNumber, kBool, kString, kNumberList } form = Form::kString;
};
/// Read a preset or a bare object. Throws ARGUMENT with line and key. Also the fuzzing entrance.
[[nodiscard]] std::vector<PresetEntry> parse_preset(std::string_view json, std::string_view where);

/// Shortest text that reads back as the same number, independent of the locale.
[[nodiscard]] std::string number_text(double value);

}  // namespace sla2::config
