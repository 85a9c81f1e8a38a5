// SPDX-License-Identifier: Apache-2.0
// Reading one value after another from a model's configuration JSON, each with its place in the error text.
#pragma once
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "weights/weights.h"

namespace sla2::config {

class ConfigJson {
 public:
  /// Takes checkpoint.config_json() if its _class_name is one of `classes` or absent; else there is no configuration
  /// (folders of the original release hold the config.json of the DiT beside the VAE).
  ConfigJson(const weights::Checkpoint& checkpoint, std::span<const std::string_view> classes);
  [[nodiscard]] bool present() const noexcept { return json_.is_object(); }
  /// The first of `keys` that is there and not null. Throws FILE_FORMAT if it is no number of this kind.
  [[nodiscard]] std::optional<int64_t> integer(std::span<const std::string_view> keys) const;
  [[nodiscard]] std::optional<double> number(std::string_view key) const;
  [[nodiscard]] std::optional<std::vector<double>> numbers(std::string_view key) const;
  /// A number the tensors also tell: FILE_FORMAT if the two disagree.
  void agrees(std::span<const std::string_view> keys, int64_t from_tensors) const;
  void agrees(std::string_view key, const std::vector<int64_t>& from_tensors) const;
  [[noreturn]] void wrong(std::string_view key, const std::string& expected) const;

 private:
  [[nodiscard]] const nlohmann::json* find(std::string_view key) const;
  std::string where_;
  nlohmann::json json_;
};

/// An extent of a tensor that must have `rank` axes.
int64_t extent(const weights::Checkpoint& checkpoint, std::string_view name, size_t rank, size_t axis);

/// MODEL_MISMATCH unless the checkpoint is of this kind; says what it is instead.
void expect_kind(const weights::Checkpoint& checkpoint, weights::Kind kind, std::string_view what);

}  // namespace sla2::config
