// SPDX-License-Identifier: Apache-2.0
// Presets and metadata objects: JSON text in, (key, line, value) entries out. A SAX reader over an iterator that counts
// lines, because an error must say where, and nlohmann's tree has forgotten lines.
#include <algorithm>
#include <cstddef>
#include <iterator>
#include <nlohmann/json.hpp>
#include <set>

#include "config/params/params.h"

namespace sla2::config {

namespace {

using nlohmann::json;

constexpr size_t kLargestPreset = 1u << 20;  // bytes; a preset is a page of text, anything larger is not one
constexpr size_t kLongestList = 4096;        // numbers in a list

/// Forward iterator over the text that counts the newlines it has passed.
class LineIterator {
 public:
  using iterator_category = std::forward_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = const char&;

  LineIterator() = default;
  LineIterator(const char* at, int* line) : at_(at), line_(line) {}
  reference operator*() const { return *at_; }
  LineIterator& operator++() {
    if (*at_ == '\n') ++*line_;
    ++at_;
    return *this;
  }
  LineIterator operator++(int) {
    LineIterator old = *this;
    ++*this;
    return old;
  }
  bool operator==(const LineIterator& other) const { return at_ == other.at_; }
  bool operator!=(const LineIterator& other) const { return at_ != other.at_; }

 private:
  const char* at_ = nullptr;
  int* line_ = nullptr;
};

class PresetReader final : public nlohmann::json_sax<json> {
 public:
  PresetReader(std::string_view where, const int* line) : where_(where), line_(line) {}

  bool null() override { stop("null is not a value; leave the key out instead"); }
  bool boolean(bool value) override { return scalar(value ? "true" : "false", PresetEntry::Form::kBool); }
  bool number_integer(number_integer_t value) override { return scalar(std::to_string(value), PresetEntry::Form::kNumber); }
  bool number_unsigned(number_unsigned_t value) override { return scalar(std::to_string(value), PresetEntry::Form::kNumber); }
  bool number_float(number_float_t value, const string_t&) override {
    return scalar(number_text(value), PresetEntry::Form::kNumber);
  }
  bool string(string_t& value) override { return scalar(value, PresetEntry::Form::kString); }
  bool binary(binary_t&) override { stop("binary data is not a value"); }

  bool start_object(size_t) override {
    if (depth_ == 0) {
      depth_ = 1;
      return true;
    }
    if (depth_ == 1 && key_ == "params" && !in_list_) {
      wrapped_ = true;
      params_line_ = key_line_;
      depth_ = 2;
      seen_params_.clear();
      return true;
    }
    stop("an object is not a value");
  }
  bool key(string_t& name) override {
    key_ = name;
    key_line_ = *line_;
    auto& seen = depth_ == 2 ? seen_params_ : seen_outer_;
    if (!seen.insert(name).second) stop("the key appears twice");
    return true;
  }
  bool end_object() override {
    --depth_;
    return true;
  }
  bool start_array(size_t) override {
    if (depth_ == 0) stop("expected an object { … } at the top");
    if (in_list_) stop("a list inside a list is not a value");
    in_list_ = true;
    list_.clear();
    list_count_ = 0;
    return true;
  }
  bool end_array() override {
    in_list_ = false;
    add(list_, PresetEntry::Form::kNumberList);
    return true;
  }
  bool parse_error(size_t, const std::string&, const nlohmann::detail::exception& error) override {
    fail(SLA2_E_ARGUMENT, "{}, line {}: not well-formed JSON: {}", where_, *line_, error.what());
  }

  std::vector<PresetEntry> take() {
    const auto has = [&](std::string_view key) {
      return std::any_of(outer_.begin(), outer_.end(), [&](const PresetEntry& entry) { return entry.key == key; });
    };
    if (!wrapped_) {
      for (const PresetEntry& entry : outer_)
        SLA2_CHECK(entry.key != "name" && entry.key != "description" && entry.key != "$schema", SLA2_E_ARGUMENT,
                   "{}, line {}, key \"{}\": belongs to a preset, which needs \"params\": {{ … }} beside it; a bare object has "
                   "settings alone",
                   where_, entry.line, entry.key);
      return std::move(outer_);
    }
    // A preset: beside "params" only what describes it.
    for (const PresetEntry& entry : outer_) {
      const bool known = entry.key == "$schema" || entry.key == "name" || entry.key == "description";
      SLA2_CHECK(known, SLA2_E_ARGUMENT,
                 "{}, line {}, key \"{}\": a preset has only $schema, name, description and params; settings "
                 "belong inside params",
                 where_, entry.line, entry.key);
      SLA2_CHECK(entry.form == PresetEntry::Form::kString, SLA2_E_ARGUMENT, "{}, line {}, key \"{}\": expected a text in quotes",
                 where_, entry.line, entry.key);
    }
    // What presets/schema.json requires.
    for (const char* key : {"name", "description"})
      SLA2_CHECK(has(key), SLA2_E_ARGUMENT, "{}, line {}, key \"{}\": is missing; a preset has name, description and params",
                 where_, params_line_, key);
    return std::move(inner_);
  }

 private:
  [[noreturn]] void stop(std::string_view why) const {
    fail(SLA2_E_ARGUMENT, "{}, line {}{}: {}", where_, key_line_ == 0 ? *line_ : key_line_,
         key_.empty() ? std::string() : fmt::format(", key \"{}\"", key_), why);
  }
  bool scalar(const std::string& text, PresetEntry::Form form) {
    if (depth_ == 0) stop("expected an object { … } at the top");
    if (!in_list_) {
      add(text, form);
      return true;
    }
    if (form != PresetEntry::Form::kNumber) stop("a list holds numbers only");
    if (++list_count_ > kLongestList) stop("the list is too long");
    list_ += (list_.empty() ? "" : ",") + text;
    return true;
  }
  void add(std::string text, PresetEntry::Form form) {
    (depth_ == 2 ? inner_ : outer_).push_back({key_, key_line_, std::move(text), form});
  }

  std::string where_;
  const int* line_;
  int depth_ = 0;
  int key_line_ = 0, params_line_ = 0;
  bool in_list_ = false, wrapped_ = false;
  size_t list_count_ = 0;
  std::string key_, list_;
  std::set<std::string> seen_outer_, seen_params_;
  std::vector<PresetEntry> outer_, inner_;
};

}  // namespace

std::vector<PresetEntry> parse_preset(std::string_view text, std::string_view where) {
  SLA2_CHECK(text.size() <= kLargestPreset, SLA2_E_ARGUMENT, "{}: {} bytes is too large for a preset (limit {})", where,
             text.size(), kLargestPreset);
  int line = 1;
  PresetReader reader(where, &line);
  json::sax_parse(LineIterator(text.data(), &line), LineIterator(text.data() + text.size(), &line), &reader);
  return reader.take();
}

}  // namespace sla2::config
