// SPDX-License-Identifier: Apache-2.0
#include "check.h"

#include <map>
#include <tuple>

#include "fill.h"
#include "gradients.h"

namespace sla2::check {
namespace {

// Workspace before the two kinds of runs: NaN in every type, and a large finite number that a maximum cannot pass over.
constexpr unsigned char kPoisonNan = 0xFF, kPoisonLarge = 0x4B;

double share_kept(const Selection& s) {
  double kept = 0;
  for (const double m : s.mask.data) kept += m;
  return kept / static_cast<double>(s.mask.data.size());
}

/// A log-sum-exp is as exact as its logits: dots of D products, whose roundings add up like √D in fp32 (like D where all products
/// are equal, as in integer fills), and are as large as the longest query times the longest key. With bf16 products it sums the
/// weights as they enter P·V, rounded to bf16.
double lse_rounding(const Case& c, const Head& head, Arithmetic plain) {
  constexpr double kHalfUlp = 5.9604644775390625e-8, kBf16HalfUlp = 1.0 / 512;
  const auto longest = [](const Table& x) {
    double most = 0;
    for (int64_t r = 0; r < x.rows; ++r) most = std::max(most, dot(x.row(r), x.row(r), x.cols));
    return std::sqrt(most);
  };
  const double logit = c.problem.softmax_scale() * longest(head.q) * longest(head.k);
  const auto dim = static_cast<double>(c.problem.dim);
  return 2 * (c.exact() ? dim : std::sqrt(dim)) * kHalfUlp * logit + (plain == Arithmetic::kF32 ? 0 : kBf16HalfUlp);
}

/// What the library says about its own run must be true.
std::string check_stats(const Case& c, const Truth& truth, Arithmetic ran, const attention::Stats& stats) {
  // The mean's error is at most the rows' largest; with few rows plain code's largest is a matter of luck, and is not asked.
  constexpr int64_t kEnoughRows = 32;
  constexpr double kFactor = 2, kJitter = 1e-6;
  if (c.has_nan()) return "";
  const int32_t bits = ran == Arithmetic::kInt8 || ran == Arithmetic::kFp8 ? 8 : 16;
  const DType products = ran == Arithmetic::kF32 ? DType::kF32 : DType::kBF16;
  if (c.problem.mode != Mode::kLinearOnly && (stats.bits_used != bits || stats.products_used != products))
    return fmt::format("stats: {} bits and {} products ran; expected {} and {}", stats.bits_used, dtype_name(stats.products_used),
                       bits, dtype_name(products));
  const bool full = runs_full(c, truth.kept_share);
  const int expected_mode = full ? 1 : static_cast<int>(c.problem.mode) + 1;
  if (static_cast<int>(stats.mode_used) != expected_mode)
    return fmt::format("stats: mode_used is {}; expected {}", static_cast<int>(stats.mode_used), expected_mode);
  const double kept = c.problem.mode == Mode::kLinearOnly ? 0 : truth.kept_share;  // whatever a router would have said
  if (std::abs(stats.achieved_sparsity - (1 - kept)) > 1e-12)
    return fmt::format("stats: achieved_sparsity is {}, the oracle skips {}", stats.achieved_sparsity, 1 - kept);
  if (full) return "";
  const int64_t pairs = c.batch * c.heads * c.problem.query_blocks() * c.problem.key_blocks();
  if (stats.blocks_total != pairs || stats.blocks_kept != std::llround(kept * static_cast<double>(pairs)))
    return fmt::format("stats: {} of {} blocks kept; expected {:.0f} of {}", stats.blocks_kept, stats.blocks_total,
                       kept * static_cast<double>(pairs), pairs);
  if (c.problem.mode == Mode::kSla2 && c.batch * c.heads * c.problem.queries >= kEnoughRows &&
      std::abs(stats.mean_linear_weight - truth.linear_weight) > kFactor * truth.linear_error + kJitter)
    return fmt::format("stats: mean_linear_weight is {}, the oracle has {}", stats.mean_linear_weight, truth.linear_weight);
  return "";
}

/// Lists, log-sum-exps and the probe.
std::string check_extras(const Case& c, const Truth& truth, const Run& run, const Target& target) {
  if (c.has_nan()) return "";
  std::string wrong = judge_kept(truth, run.kept);
  if (wrong.empty()) wrong = judge_lse(truth, run.lse);
  if (wrong.empty() && is_probed(c, target))
    wrong = judge_probe(truth, widen(run.bits, c.dtype), run.probe.relative_l1, run.probe.cosine);
  return wrong;
}

Finding check_refusal(const Case& c, const Target& target) {
  const Run made = Subject::create(c, target);
  Finding f;
  f.status = made.refused && made.status == SLA2_E_ARGUMENT ? Status::kPass : Status::kFail;
  f.reason = made.refused ? fmt::format("refused with status {}: {}", made.status, made.text) : "expected a refusal, got a plan";
  return f;
}

Finding check_isa(const Case& c, const Settings& settings, Subject& subject, const Truth& truth, const Target& target) {
  Finding f;
  const Run first = subject.run(target, settings.threads[0], kPoisonNan);
  if (target.gpu && first.refused && first.status == SLA2_E_UNSUPPORTED) return {Status::kSkip, "", "", "", first.text, 0};
  f.status = Status::kFail;
  f.reason = first.refused ? "refused a case the door has words for: " + first.text : first.text;
  if (!f.reason.empty()) return f;
  const Verdict verdict = judge(c, truth, widen(first.bits, c.dtype));
  f.reason = verdict.reason;
  f.share = verdict.share;
  if (verdict.status == Status::kFail) return f;
  const std::string stats = check_stats(c, truth, arithmetic_of(c, target), first.stats);
  if (!stats.empty()) return f.reason = stats, f;
  const std::string wrong = verdict.status == Status::kMistrusted ? "" : check_extras(c, truth, first, target);
  if (!wrong.empty()) return f.reason = wrong, f;
  for (size_t i = 0; i < settings.threads.size(); ++i) {
    const int threads = settings.threads[i];
    const bool extras = i + 1 == settings.threads.size();
    const Run again = subject.run(target, threads, kPoisonLarge, extras);
    if (again.refused || !again.text.empty()) return f.reason = fmt::format("with {} threads: {}", threads, again.text), f;
    const auto beside = [](const Run& run) { return std::tie(run.lse, run.kept, run.probe.relative_l1, run.probe.cosine); };
    if (extras && beside(again) != beside(first) && !c.has_nan())
      return f.reason = fmt::format("{} threads and a poisoned workspace give another list, log-sum-exp or probe", threads), f;
    if (again.bits != first.bits && !c.has_nan()) {
      size_t at = 0;
      while (again.bits[at] == first.bits[at]) ++at;
      return f.reason = fmt::format("{} threads and a poisoned workspace give other bits than {} from byte {} on", threads,
                                    settings.threads[0], at),
             f;
    }
  }
  f.status = verdict.status;
  return f;
}

/// The case in full attention.
Problem full_of(const Case& c) {
  Problem full = c.problem;
  full.mode = Mode::kFull, full.router = Router::kSla2;
  return full;
}

/// What every arithmetic is compared with, a head each: made once a case.
struct ExactTruth {
  std::vector<Selection> selections;
  std::vector<Output> out, full;  ///< full is empty where out is it
};

/// Both of each head at once, so that a case of one head keeps two cores busy.
ExactTruth make_exact(const Case& c, const std::vector<Head>& heads) {
  ExactTruth exact{std::vector<Selection>(heads.size()), std::vector<Output>(heads.size()), {}};
  if (c.problem.mode != Mode::kFull) exact.full.resize(heads.size());
  const Problem full = full_of(c);
  parallel_for(static_cast<int64_t>(heads.size()), [&](int64_t i, int) {
    exact.selections[static_cast<size_t>(i)] = select(c.problem, heads[static_cast<size_t>(i)]);
  });
  parallel_for(static_cast<int64_t>(heads.size() + exact.full.size()), [&](int64_t index, int) {
    const auto n = static_cast<size_t>(index), i = n % heads.size();
    if (n < heads.size())
      exact.out[i] = forward(c.problem, heads[i], exact.selections[i], Arithmetic::kExact);
    else
      exact.full[i] = forward(full, heads[i], select(full, heads[i]), Arithmetic::kExact);
  });
  return exact;
}

/// Beside plain code of one arithmetic.
Truth make_truth(const Case& c, const std::vector<Head>& heads, const ExactTruth& exact, Arithmetic plain) {
  const size_t per_head = static_cast<size_t>(c.problem.queries * c.problem.dim),
               blocks = static_cast<size_t>(c.problem.query_blocks());
  const auto queries = static_cast<size_t>(c.problem.queries);
  const bool is_full = c.problem.mode == Mode::kFull;
  const Problem full = full_of(c);
  std::vector<Output> rough(heads.size()), rough_full(is_full ? 0 : heads.size());
  parallel_for(static_cast<int64_t>(heads.size() + rough_full.size()), [&](int64_t index, int) {
    const auto n = static_cast<size_t>(index), i = n % heads.size();
    const Selection& s = exact.selections[i];
    // With every block kept the library promises the full path, which takes keys as they are: so does its yardstick.
    if (n < heads.size())
      rough[i] = forward(runs_full(c, share_kept(s)) ? full : c.problem, heads[i], s, plain);
    else
      rough_full[i] = forward(full, heads[i], select(full, heads[i]), plain);
  });

  Truth truth;
  truth.out.resize(heads.size() * per_head);
  truth.plain.resize(truth.out.size());
  truth.full.resize(truth.out.size());
  truth.lse.resize(heads.size() * queries);
  truth.plain_lse.resize(truth.lse.size());
  truth.kept.resize(heads.size() * blocks);
  truth.scores.resize(truth.kept.size());
  truth.kept_share = 0;
  for (size_t i = 0; i < heads.size(); ++i) {
    const Selection& s = exact.selections[i];
    const Output &out = exact.out[i], &dense = is_full ? out : exact.full[i], &plain_out = rough[i];
    const auto at = [&](size_t size) { return static_cast<std::ptrdiff_t>(i * size); };
    std::copy(out.o.data.begin(), out.o.data.end(), truth.out.begin() + at(per_head));
    std::copy(dense.o.data.begin(), dense.o.data.end(), truth.full.begin() + at(per_head));
    std::copy(out.lse.begin(), out.lse.end(), truth.lse.begin() + at(queries));
    std::copy(plain_out.lse.begin(), plain_out.lse.end(), truth.plain_lse.begin() + at(queries));
    for (size_t n = 0; n < per_head; ++n) truth.plain[i * per_head + n] = rounded(plain_out.o.data[n], c.dtype);
    for (int64_t b = 0; b < s.mask.rows; ++b) {
      const size_t row = i * blocks + static_cast<size_t>(b);
      truth.scores[row].assign(s.scores.row(b), s.scores.row(b) + s.mask.cols);
      for (int64_t j = 0; j < s.mask.cols && c.problem.mode != Mode::kLinearOnly; ++j)
        if (c.problem.tau > 0 || s.mask(b, j) != 0) truth.kept[row].push_back(static_cast<int32_t>(j));
    }
    double weight = 0;
    for (size_t n = 0; n < out.linear_weight.size(); ++n) {
      weight += out.linear_weight[n] / static_cast<double>(out.linear_weight.size());
      truth.linear_error = std::max(truth.linear_error, std::abs(plain_out.linear_weight[n] - out.linear_weight[n]));
    }
    truth.kept_share += share_kept(s) / static_cast<double>(heads.size());
    truth.linear_weight += weight / static_cast<double>(heads.size());
    truth.lse_rounding = std::max(truth.lse_rounding, lse_rounding(c, heads[i], plain));
    truth.full_error =
        std::max(truth.full_error, distance((is_full ? plain_out : rough_full[i]).o.data, dense.o.data).relative_l1);
    truth.closest = std::min(truth.closest, s.closest);
  }
  return truth;
}

}  // namespace

std::vector<Finding> check_case(const Case& c, const Settings& settings) {
  std::vector<Finding> findings;
  const std::string line = to_line(c);
  const auto keep = [&](Finding f, std::string_view isa) {
    f.isa = isa;
    f.line = line;
    f.where = c.where;
    if (f.status == Status::kMistrusted && !c.explain.empty())
      f.status = Status::kPass, f.reason = "explained (" + c.explain + "): " + f.reason;
    findings.push_back(std::move(f));
  };
  if (c.expect == Expect::kRefused) {
    for (const Target& target : settings.targets) keep(check_refusal(c, target), target.name);
    return findings;
  }
  if (c.direction == Direction::kBackward) {
    GradientSubject subject(c);
    const Target* ran = nullptr;  // a GPU: gradients have the same kernels on all of them
    for (const Target& target : settings.targets) {
      if (target.only_int8) continue;  // backward multiplies no bytes
      if (target.gpu && ran != nullptr) {
        keep({Status::kSkip, "", "", "", "the same kernels as " + ran->name, 0}, target.name);
        continue;
      }
      const Verdict v = check_gradients(subject, settings.threads, target);
      keep({v.status, "", "", "", v.reason, v.share}, target.name);
      if (target.gpu && v.status != Status::kSkip) ran = &target;
    }
    return findings;
  }
  const std::vector<Head> heads = make_heads(c);
  const ExactTruth exact = make_exact(c, heads);
  std::map<Arithmetic, Truth> truths;
  Subject subject(c, heads);
  for (const Target& target : settings.targets) {
    if (target.only_int8 && c.bits != 8) continue;
    const Arithmetic plain = arithmetic_of(c, target);
    if (truths.find(plain) == truths.end()) truths.emplace(plain, make_truth(c, heads, exact, plain));
    keep(check_isa(c, settings, subject, truths.at(plain), target), target.name);
  }
  return findings;
}

}  // namespace sla2::check
