// SPDX-License-Identifier: Apache-2.0
// A case: one line of text `key=value key=value …` and what it says. Absent keys take the defaults below.
#pragma once
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "oracle/oracle.h"

namespace sla2::check {

enum class Direction : uint8_t { kForward, kBackward };
enum class Element : uint8_t { kF32, kBf16, kF16 };
enum class Layout : uint8_t { kBhnd, kBnhd, kFused, kPadded };  ///< fused: one [B,N,3,H,D]; padded: rows and heads with gaps
enum class Fill : uint8_t {
  kGauss,     ///< normal, keys off centre
  kPick,      ///< integers: each query's softmax is one key: a row of V comes out
  kPairs,     ///< integers: two keys half a sequence apart share it: the mean of two rows
  kUniform,   ///< integers: all logits equal: means of V
  kZeros,     ///< Q and K zero, V normal
  kChannels,  ///< gauss with a zero and an outlier channel in K and V
  kEqual,     ///< all rows of Q equal, all rows of K equal
  kHuge,      ///< gauss, Q and K times 40
  kTiny,      ///< gauss times 1e-20: products underflow
  kNanQ,
  kNanK,
  kNanV,    ///< gauss with one NaN in the last head
  kDrift,   ///< queries drift like keys, both more in some stretches than in others: blocks differ in how alike their rows are
  kSpikes,  ///< gauss, and each row of Q and K towers in one channel: φ is one-hot, unshifted exponentials overflow
};
enum class Bias : uint8_t { kNone, kNormal, kMasked };  ///< per key; masked: −inf on a tenth of the keys
enum class Expect : uint8_t { kResult, kRefused };
enum class Weights : uint8_t { kIdentity, kNormal, kShared };  ///< router's W_q, W_k; learned ones per head or one for all

struct Case {
  Problem problem;  ///< queries, keys, dim, blocks, modes …
  Direction direction = Direction::kForward;
  int64_t batch = 1, heads = 1, kv_heads = 0;  ///< 0: as heads
  Element dtype = Element::kF32;
  Layout layout = Layout::kBhnd;
  Fill fill = Fill::kGauss;
  Bias bias = Bias::kNone;
  Weights weights = Weights::kIdentity;
  Element products = Element::kF32;  ///< of Q·Kᵀ and P·V: f32, or bf16 where the CPU can
  int64_t bits = 16, fp8_values = 0, seed = 1;
  double a_scale = 0.6, a_bias = 0.5;
  Expect expect = Expect::kResult;
  std::string explain;  ///< why MISTRUSTED is fine here (underscores for spaces)
  std::string where;    ///< file:line, for messages

  [[nodiscard]] int64_t groups() const { return kv_heads == 0 ? 1 : heads / kv_heads; }  ///< query heads per key head
  [[nodiscard]] bool exact() const { return fill == Fill::kPick || fill == Fill::kPairs || fill == Fill::kUniform; }
  [[nodiscard]] bool has_nan() const { return fill == Fill::kNanQ || fill == Fill::kNanK || fill == Fill::kNanV; }
};

/// Throws std::runtime_error: "<where>: key 'D': expected …, got '…'".
[[nodiscard]] Case parse_case(std::string_view line, const std::string& where);
/// The line that repeats this case: keys that differ from their default, in one order.
[[nodiscard]] std::string to_line(const Case& c);
/// Every key with its value, defaults included.
[[nodiscard]] std::vector<std::pair<std::string, std::string>> items(const Case& c);
/// Cases of a list file; '#' starts a comment, empty lines are passed over.
[[nodiscard]] std::vector<Case> read_list(const std::string& path);
/// One line per key: name, default, meaning.
[[nodiscard]] std::string describe_keys();

}  // namespace sla2::check
