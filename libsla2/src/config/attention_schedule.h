// SPDX-License-Identifier: Apache-2.0
// Which attention each layer runs at each step, as data: a short text, read once.
//
//   0-3:full; 4-29:sla2@0.9; steps 0-20%:full
//
// Rules are separated by ';' and a later one wins where two apply. A rule is [steps A-B%] [layers]:mode[@sparsity]: layers a-b, a
// or * (all, also when left out), counted from 0, both ends in; steps A% ≤ step / steps < B%. Layers that no rule names run full.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace sla2::config {

enum class LayerMode : uint8_t { kFull, kSparseOnly, kLinearOnly, kSla1, kSla2 };

struct LayerChoice {
  LayerMode mode = LayerMode::kFull;
  double sparsity = 0;
  bool operator==(const LayerChoice&) const = default;
};

class AttentionSchedule {
 public:
  /// Throws ARGUMENT naming the rule and what was expected in it. An empty text: every layer full.
  [[nodiscard]] static AttentionSchedule parse(std::string_view text);
  /// What layer `layer` runs at step `step` (from 0) of `steps`.
  [[nodiscard]] LayerChoice at(int64_t layer, int64_t step, int64_t steps) const;
  /// The text that gives this schedule again.
  [[nodiscard]] std::string text() const;
  /// Highest layer a rule names, -1 where none does: a model needs more layers than that.
  [[nodiscard]] int64_t last_layer() const;

 private:
  struct Rule {
    int64_t first = 0, last = kAll;             ///< layers
    double from_percent = 0, to_percent = 100;  ///< steps
    LayerChoice choice;
  };
  static constexpr int64_t kAll = INT64_MAX;
  static Rule parse_rule(std::string_view rule);

  std::vector<Rule> rules_;
};

}  // namespace sla2::config
