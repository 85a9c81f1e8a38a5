// SPDX-License-Identifier: Apache-2.0
// From numbers to a status. Budgets come from plain code in the same precision; nothing here is tuned to a kernel.
#pragma once
#include "case.h"

namespace sla2::check {

enum class Status : uint8_t {
  kPass,
  kFail,
  kSkip,        ///< cannot run here, and why
  kMistrusted,  ///< ran and agrees, but the case could not have shown a mistake
  kUntested,    ///< nothing was compared
};
[[nodiscard]] const char* name_of(Status status);

/// How far x is from the truth, over elements where the truth is finite.
struct Distance {
  double worst = 0, rms = 0;      ///< absolute
  double size = 0, size_rms = 0;  ///< of the truth
  double relative_l1 = 0, cosine = 1;
  bool not_a_number = false;  ///< x is not finite where the truth is
};
[[nodiscard]] Distance distance(const std::vector<double>& x, const std::vector<double>& truth);

struct Verdict {
  Status status = Status::kUntested;
  std::string reason;  ///< one sentence; for PASS the numbers
  double share = 0;    ///< of the budget used, at most 1 for PASS
  Distance ours, plain;
};

/// Everything about a case that does not depend on who computes it; [B,H,N,D] in a row.
struct Truth {
  std::vector<double> out;                  ///< fp64
  std::vector<double> plain;                ///< plain code of one precision, rounded to the element type
  double kept_share = 1;                    ///< fraction of (query block, key block) pairs kept
  double linear_weight = 0;                 ///< mean of 1 − a
  double linear_error = 0;                  ///< largest difference of a row's 1 − a between plain code and truth
  double closest = INFINITY;                ///< Selection::closest, smallest over heads
  std::vector<double> lse, plain_lse;       ///< [B,H,N]
  double lse_rounding = 0;                  ///< what a log-sum-exp may be off by rounding alone, however lucky plain code is
  std::vector<double> full;                 ///< full attention on the same numbers, what the probe compares with
  double full_error = 0;                    ///< plain code's relative L1 on it
  std::vector<std::vector<int32_t>> kept;   ///< [B·H·T_m] blocks of each row's list
  std::vector<std::vector<double>> scores;  ///< [B·H·T_m][T_n] of the router
};

/// What is wrong with the outputs beside out; empty: nothing.
[[nodiscard]] std::string judge_lse(const Truth& truth, const std::vector<float>& lse);
[[nodiscard]] std::string judge_probe(const Truth& truth, const std::vector<double>& ours, double relative_l1, double cosine);
[[nodiscard]] std::string judge_kept(const Truth& truth, const std::vector<std::vector<int32_t>>& kept);

[[nodiscard]] Verdict judge(const Case& c, const Truth& truth, const std::vector<double>& ours);

}  // namespace sla2::check
