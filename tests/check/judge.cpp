// SPDX-License-Identifier: Apache-2.0
#include "judge.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <iterator>

#include "fill.h"

namespace sla2::check {
namespace {

// err(ours) ≤ 2 · err(plain) + jitter: FlashAttention's rule. The jitter is a few fp32 roundings of the largest output, for
// cases where plain code happens to be exact.
constexpr double kFactor = 2, kJitter = 4 * 5.9604644775390625e-8;
// What the project promises beside (issue "must hold"): gates on top of the budget, for Gaussian inputs and outlier channels.
constexpr double kBf16RelativeL1 = 0.005, kInt8RelativeL1 = 0.03, kInt8Cosine = 0.9995;
// Below these a case proves little.
constexpr double kLeastSpread = 1e-3;        // of the output from query to query, relative to its size
constexpr double kPlainTooFar = 0.05;        // the yardstick's own relative error
constexpr double kLeastLinearWeight = 1e-3;  // mean 1 − a
constexpr double kNearTie = 1e-6;            // fp32 block means move a score by about 1e-7 of the spread

/// How much the output changes from query to query: rms of out minus its mean over queries, relative to rms of out.
double spread(const Case& c, const std::vector<double>& out) {
  const int64_t n = c.problem.queries, d = c.problem.dim;
  double changing = 0, all = 0;
  for (int64_t head = 0; head < c.batch * c.heads; ++head)
    for (int64_t channel = 0; channel < d; ++channel) {
      const auto at = [&](int64_t row) { return out[static_cast<size_t>((head * n + row) * d + channel)]; };
      double mean = 0;
      for (int64_t row = 0; row < n; ++row) mean += at(row) / static_cast<double>(n);
      for (int64_t row = 0; row < n; ++row) changing += (at(row) - mean) * (at(row) - mean), all += at(row) * at(row);
    }
  return all > 0 ? std::sqrt(changing / all) : 0;
}

/// Why agreement on this case says little; empty if it does say something.
std::string distrust(const Case& c, const Truth& t, const Verdict& v) {
  if (v.plain.size == 0) return "the true output is zero everywhere";
  if (c.problem.queries > 1 && spread(c, t.out) < kLeastSpread)
    return "every query gives the same output: a wrong row would pass";
  if (v.plain.relative_l1 > kPlainTooFar)
    return fmt::format("plain code is itself off by {:.1f} % (relative L1): the budget is too wide", 100 * v.plain.relative_l1);
  const bool routed = c.problem.mode != Mode::kFull && c.problem.mode != Mode::kLinearOnly;
  const bool by_data = c.problem.router == Router::kVmoba || c.problem.router == Router::kSparge;
  if (routed && (c.problem.sparsity > 0 || by_data) && t.kept_share == 1)
    return "no block is skipped: the sparse path did not run";
  if (c.problem.mode == Mode::kSla2 && t.kept_share < 1 && t.linear_weight < kLeastLinearWeight)
    return fmt::format("the linear branch has weight {:.1e}: it could be wrong", t.linear_weight);
  return "";
}

/// Integer fills: the truth is a number of the element type, and nothing else will do.
Verdict judge_exact(const Case& c, const Truth& t, const std::vector<double>& ours) {
  Verdict v;
  for (const double x : t.out)  // what is no fp32 number here is a mean over no power of two, or a gap between keys too small
    if (std::abs(static_cast<double>(static_cast<float>(x)) - x) > 1e-12 * std::abs(x)) {
      v.status = Status::kMistrusted;
      v.reason = fmt::format("the fill is not exact for this case: the truth holds {}", x);
      return v;
    }
  size_t wrong = 0, first = 0;
  for (size_t i = 0; i < ours.size(); ++i)
    if (!(ours[i] == rounded(t.out[i], c.dtype)) && wrong++ == 0) first = i;
  v.ours = distance(ours, t.out);
  v.plain = distance(t.plain, t.out);
  v.status = wrong == 0 ? Status::kPass : Status::kFail;
  v.share = wrong == 0 ? 0 : 1;
  const auto n = static_cast<size_t>(c.problem.queries), d = static_cast<size_t>(c.problem.dim);
  v.reason =
      wrong == 0
          ? "exact"
          : fmt::format("{} of {} elements are not exact; first at head {}, row {}, channel {}: expected {}, got {}", wrong,
                        ours.size(), first / (n * d), first / d % n, first % d, rounded(t.out[first], c.dtype), ours[first]);
  return v;
}

/// A NaN goes in: whatever the formulas make NaN must be NaN, and heads without one must be as good as ever.
std::string judge_nan(const Case& c, const Truth& t, std::vector<double>& ours, std::vector<double>& truth,
                      std::vector<double>& plain) {
  const auto per_head = static_cast<size_t>(c.problem.queries * c.problem.dim);
  const size_t clean = ours.size() - per_head;  // the fills put it into the last head
  size_t expected = 0, missing = 0;
  for (size_t i = clean; i < ours.size(); ++i)
    if (std::isnan(t.out[i])) ++expected, missing += std::isnan(ours[i]) ? 0 : 1;
  if (expected == 0) return "the oracle itself has no NaN: the case is wrong";
  if (missing > 0) return fmt::format("{} of {} outputs that depend on the NaN are numbers", missing, expected);
  for (auto* const x : {&ours, &truth, &plain}) x->resize(clean);
  return "";
}

}  // namespace

const char* name_of(Status status) {
  constexpr const char* kNames[] = {"PASS", "FAIL", "SKIP", "MISTRUSTED", "UNTESTED"};
  return kNames[static_cast<size_t>(status)];
}

Distance distance(const std::vector<double>& x, const std::vector<double>& truth) {
  Distance d;
  double error_1 = 0, truth_1 = 0, both = 0, x_2 = 0, truth_2 = 0, error_2 = 0, count = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    if (!std::isfinite(truth[i])) continue;
    if (!std::isfinite(x[i])) {
      d.not_a_number = true;
      continue;
    }
    const double error = std::abs(x[i] - truth[i]);
    d.worst = std::max(d.worst, error);
    d.size = std::max(d.size, std::abs(truth[i]));
    error_1 += error, truth_1 += std::abs(truth[i]);
    error_2 += error * error, truth_2 += truth[i] * truth[i], x_2 += x[i] * x[i], both += x[i] * truth[i];
    count += 1;
  }
  if (count == 0) return d;
  d.rms = std::sqrt(error_2 / count);
  d.size_rms = std::sqrt(truth_2 / count);
  d.relative_l1 = truth_1 > 0 ? error_1 / truth_1 : 0;
  d.cosine = x_2 > 0 && truth_2 > 0 ? both / std::sqrt(x_2 * truth_2) : 1;
  return d;
}

std::string judge_lse(const Truth& t, const std::vector<float>& lse) {
  std::vector<double> ours, truth, plain;
  for (size_t i = 0; i < lse.size(); ++i) {
    const auto value = static_cast<double>(lse[i]);
    if (!std::isfinite(t.lse[i])) {
      if (value != t.lse[i]) return fmt::format("log-sum-exp of row {} is {}; expected {}", i, value, t.lse[i]);
      continue;
    }
    ours.push_back(value), truth.push_back(t.lse[i]), plain.push_back(t.plain_lse[i]);
  }
  const Distance d = distance(ours, truth), allowed = distance(plain, truth);
  const double worst = kFactor * allowed.worst + t.lse_rounding, rms = kFactor * allowed.rms + t.lse_rounding;
  if (!d.not_a_number && d.worst <= worst && d.rms <= rms) return "";
  return fmt::format("log-sum-exps are off: worst {:.2e} of {:.2e}, rms {:.2e} of {:.2e}", d.worst, worst, d.rms, rms);
}

std::string judge_probe(const Truth& t, const std::vector<double>& ours, double relative_l1, double cosine) {
  constexpr double kRounding = 1e-6;
  const Distance d = distance(ours, t.full);
  const double allowed =
      kFactor * t.full_error * (1 + d.relative_l1) + kRounding;  // the probe's full attention is not exact either
  if (std::abs(relative_l1 - d.relative_l1) > allowed)
    return fmt::format("the probe says relative L1 {}; expected {} ± {:.1e}", relative_l1, d.relative_l1, allowed);
  if (std::abs(cosine - d.cosine) > allowed)
    return fmt::format("the probe says cosine {}; expected {} ± {:.1e}", cosine, d.cosine, allowed);
  return "";
}

namespace {

/// The rows differ only in blocks whose scores are equal but for rounding.
bool is_tie(const std::vector<int32_t>& expected, const std::vector<int32_t>& got, const std::vector<double>& scores) {
  if (expected.size() != got.size()) return false;
  const auto [low, high] = std::minmax_element(scores.begin(), scores.end());
  std::vector<int32_t> swapped;
  std::set_symmetric_difference(expected.begin(), expected.end(), got.begin(), got.end(), std::back_inserter(swapped));
  const auto by_score = [&](int32_t x, int32_t y) { return scores[static_cast<size_t>(x)] < scores[static_cast<size_t>(y)]; };
  const auto [least, most] = std::minmax_element(swapped.begin(), swapped.end(), by_score);
  return scores[static_cast<size_t>(*most)] - scores[static_cast<size_t>(*least)] <= kNearTie * (*high - *low);
}

}  // namespace

std::string judge_kept(const Truth& t, const std::vector<std::vector<int32_t>>& kept) {
  if (kept.size() != t.kept.size()) return fmt::format("the list has {} rows; expected {}", kept.size(), t.kept.size());
  for (size_t row = 0; row < kept.size(); ++row)
    if (kept[row] != t.kept[row] && !is_tie(t.kept[row], kept[row], t.scores[row]))
      return fmt::format("row {} of the list: expected blocks {}, got {}", row, fmt::join(t.kept[row], " "),
                         fmt::join(kept[row], " "));
  return "";
}

Verdict judge(const Case& c, const Truth& t, const std::vector<double>& ours_all) {
  if (c.exact()) return judge_exact(c, t, ours_all);
  std::vector<double> ours = ours_all, truth = t.out, plain = t.plain;
  Verdict v;
  v.status = Status::kFail;
  if (c.has_nan()) {
    v.reason = judge_nan(c, t, ours, truth, plain);
    if (!v.reason.empty()) return v;
  }
  v.ours = distance(ours, truth);
  v.plain = distance(plain, truth);
  if (v.ours.not_a_number) {
    v.reason = "the output holds NaN or infinity where the truth is a number";
    return v;
  }
  const double worst_budget = kFactor * v.plain.worst + kJitter * v.plain.size;
  const double rms_budget = kFactor * v.plain.rms + kJitter * v.plain.size_rms;
  const auto part = [](double error, double budget) { return error == 0 ? 0 : error / budget; };
  v.share = std::max(part(v.ours.worst, worst_budget), part(v.ours.rms, rms_budget));
  v.reason = fmt::format("worst {:.2e} of {:.2e}, rms {:.2e} of {:.2e}, relative L1 {:.1e}, 1-cosine {:.1e}", v.ours.worst,
                         worst_budget, v.ours.rms, rms_budget, v.ours.relative_l1, 1 - v.ours.cosine);
  const bool gated = c.fill == Fill::kGauss || c.fill == Fill::kChannels;
  if (gated && (c.dtype == Element::kBf16 || c.products == Element::kBf16) && c.bits == 16 &&
      v.ours.relative_l1 > kBf16RelativeL1)
    return v.reason = fmt::format("bf16 relative L1 {:.4f} is above the promised {}", v.ours.relative_l1, kBf16RelativeL1), v;
  if (gated && c.bits == 8 && (v.ours.relative_l1 > kInt8RelativeL1 || v.ours.cosine < kInt8Cosine))
    return v.reason = fmt::format("8 bits: relative L1 {:.4f} and cosine {:.6f}; promised {} and {}", v.ours.relative_l1,
                                  v.ours.cosine, kInt8RelativeL1, kInt8Cosine),
           v;
  if (!(v.share <= 1)) {
    v.reason = "over budget: " + v.reason;
    if (t.closest < kNearTie) {
      v.status = Status::kMistrusted;
      v.reason =
          fmt::format(
              "two block scores differ by {:.1e} of their spread: the kept set is a matter of rounding; take another seed. ",
              t.closest) +
          v.reason;
    }
    return v;
  }
  v.status = Status::kPass;
  const std::string doubt = c.has_nan() ? "" : distrust(c, t, v);
  if (!doubt.empty()) v.status = Status::kMistrusted, v.reason = doubt + " (" + v.reason + ")";
  return v;
}

}  // namespace sla2::check
