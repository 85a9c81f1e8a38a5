// SPDX-License-Identifier: Apache-2.0
// What self-attention does in each layer of each step, as data: a list of rules, of which the last that fits decides.
//
//   sla2@0.9; layers 0,-1: full; steps 0-20%: full; layers 10-19: sparse_only@0.8
//
//   rule    [steps WINDOW] [layers LIST] : MODE[@SPARSITY] [bits=8|16] [router=NAME]
//           without steps and layers: everywhere, and no colon is needed; what is not said is the job's own
//   WINDOW  A-B   steps by number, from 0, B included           A-B%  from A % to B % of the steps
//   LIST    numbers and ranges A-B joined by commas; negative numbers count from the last layer (-1)
//   MODE    full, sla2, sla1, sparse_only, linear_only, l_plus_s, pooled
//
// The idea of mixing kinds of attention by layer: MiniCPM-SALA; how layers are chosen is calibration's business.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "attention/attention.h"

namespace sla2::pipeline {

struct AttentionRule {
  std::optional<std::pair<double, double>> steps;   ///< numbers (first, last), or fractions of the steps if `of_all`
  bool of_all = false;                              ///< steps is [first, last) of 0 … 1
  std::vector<std::pair<int64_t, int64_t>> layers;  ///< first, last; negative from the end; empty: all
  attention::Mode mode = attention::Mode::kFull;
  std::optional<double> sparsity;  ///< absent: the job's own
  std::optional<int32_t> bits;
  std::optional<attention::Router> router;

  [[nodiscard]] bool fits(int step, int steps_in_all, int64_t layer, int64_t layers_in_all) const;
};

/// Throws ARGUMENT: which rule, what is wrong with it, and an example.
std::vector<AttentionRule> parse_attention_schedule(std::string_view text);
/// The word of the table for a mode, and back; nothing for other words.
std::string_view mode_word(attention::Mode mode);
std::optional<attention::Mode> mode_of(std::string_view word);
/// The same for routers; "given" is no word: nothing in a run gives masks.
std::string_view router_word(attention::Router router);
std::optional<attention::Router> router_of(std::string_view word);

}  // namespace sla2::pipeline
