// SPDX-License-Identifier: Apache-2.0
// Shared parts of reading a configuration; the networks are in dit_config.cpp and vae_config.cpp.
#include "config/model_config.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "config/config_json.h"

namespace sla2::config {

ConfigJson::ConfigJson(const weights::Checkpoint& checkpoint, std::span<const std::string_view> classes)
    : where_(checkpoint.path()) {
  if (checkpoint.config_json().empty()) return;
  nlohmann::json json = nlohmann::json::parse(checkpoint.config_json(), nullptr, false);
  if (!json.is_object()) return;
  const auto name = json.find("_class_name");
  if (name != json.end()) {
    const std::string text = name->is_string() ? name->get<std::string>() : "";
    if (std::find(classes.begin(), classes.end(), text) == classes.end()) {
      log(SLA2_LOG_INFO, "{}: the configuration found with it is for '{}' and is not used", where_, text);
      return;
    }
  }
  json_ = std::move(json);
}

const nlohmann::json* ConfigJson::find(std::string_view key) const {
  if (!present()) return nullptr;
  const auto found = json_.find(key);
  return found == json_.end() || found->is_null() ? nullptr : &*found;
}

void ConfigJson::wrong(std::string_view key, const std::string& expected) const {
  const nlohmann::json* got = find(key);
  fail(SLA2_E_FILE_FORMAT, "{}: configuration key '{}': expected {}, got {}; is this the config.json of these weights?", where_,
       key, expected,
       got == nullptr ? "nothing" : got->dump(-1, ' ', false, nlohmann::json::error_handler_t::replace).substr(0, 200));
}

std::optional<int64_t> ConfigJson::integer(std::span<const std::string_view> keys) const {
  for (const std::string_view key : keys) {
    const nlohmann::json* value = find(key);
    if (value == nullptr) continue;
    if (!value->is_number_integer()) wrong(key, "a whole number");
    return value->get<int64_t>();
  }
  return std::nullopt;
}

std::optional<double> ConfigJson::number(std::string_view key) const {
  const nlohmann::json* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_number()) wrong(key, "a number");
  return value->get<double>();
}

std::optional<std::vector<double>> ConfigJson::numbers(std::string_view key) const {
  const nlohmann::json* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_array()) wrong(key, "a list of numbers");
  std::vector<double> list;
  for (const auto& item : *value) {
    if (item.is_boolean()) {
      list.push_back(item.get<bool>() ? 1 : 0);
    } else if (item.is_number()) {
      list.push_back(item.get<double>());
    } else {
      wrong(key, "a list of numbers");
    }
  }
  return list;
}

void ConfigJson::agrees(std::span<const std::string_view> keys, int64_t from_tensors) const {
  for (const std::string_view key : keys) {
    const auto value = integer(std::span(&key, 1));
    if (value && *value != from_tensors) wrong(key, fmt::format("{}, as in the tensors", from_tensors));
  }
}

void ConfigJson::agrees(std::string_view key, const std::vector<int64_t>& from_tensors) const {
  const auto list = numbers(key);
  const auto equal = [](double a, int64_t b) { return a == static_cast<double>(b); };
  if (list && !std::equal(list->begin(), list->end(), from_tensors.begin(), from_tensors.end(), equal)) {
    wrong(key, fmt::format("[{}], as in the tensors", fmt::join(from_tensors, ", ")));
  }
}

int64_t extent(const weights::Checkpoint& checkpoint, std::string_view name, size_t rank, size_t axis) {
  const auto& shape = checkpoint.info(name).shape;
  SLA2_CHECK(shape.size() == rank, SLA2_E_FILE_FORMAT, "{}: tensor '{}': expected {} axes, got shape [{}]", checkpoint.path(),
             name, rank, fmt::join(shape, ", "));
  SLA2_CHECK(shape[axis] > 0, SLA2_E_FILE_FORMAT, "{}: tensor '{}' is empty: shape [{}]", checkpoint.path(), name,
             fmt::join(shape, ", "));
  return shape[axis];
}

void expect_kind(const weights::Checkpoint& checkpoint, weights::Kind kind, std::string_view what) {
  SLA2_CHECK(checkpoint.identity().kind == kind, SLA2_E_MODEL_MISMATCH, "{}: expected {}, got {}; it fits {}", checkpoint.path(),
             what, checkpoint.identity().summary, checkpoint.identity().fits);
}

}  // namespace sla2::config
