// SPDX-License-Identifier: Apache-2.0
#include "bench.h"

#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

#include "fill.h"
#include "gradients.h"
#include "machine.h"

namespace sla2::check {
namespace {

double median(std::vector<double> x) {
  std::sort(x.begin(), x.end());
  return x.size() % 2 == 1 ? x[x.size() / 2] : (x[x.size() / 2 - 1] + x[x.size() / 2]) / 2;
}

double median_deviation(std::vector<double> x) {
  const double middle = median(x);
  for (double& value : x) value = std::abs(value - middle);
  return median(x);
}

Case dense_twin(Case c) {
  Problem p;
  p.queries = c.problem.queries, p.keys = c.problem.keys, p.dim = c.problem.dim, p.scale = c.problem.scale;
  c.problem = p;
  return c;
}

/// Calls of one case on whoever runs it, forward or backward; the inputs are made once.
class Timed {
 public:
  explicit Timed(const Case& c) : case_(c) {
    if (c.direction == Direction::kBackward)
      gradients_ = std::make_unique<GradientSubject>(case_, false);
    else
      heads_ = make_heads(case_), forward_ = std::make_unique<Subject>(case_, heads_);
  }
  Timed(const Timed&) = delete;
  Timed& operator=(const Timed&) = delete;

  [[nodiscard]] std::vector<double> time(const Target& target, int threads, int repeats) {
    if (gradients_) return gradients_->time(target, threads, repeats);
    return forward_->time(target, threads, repeats, &stats_);
  }
  /// Of the pairs of blocks; for a forward as the last call said.
  [[nodiscard]] double kept_share() const {
    if (gradients_) return gradients_->kept_share();
    return case_.problem.mode == Mode::kFull ? 1 : 1 - stats_.achieved_sparsity;
  }

 private:
  Case case_;
  std::vector<Head> heads_;
  std::unique_ptr<Subject> forward_;
  std::unique_ptr<GradientSubject> gradients_;
  attention::Stats stats_;
};

double operations(const Case& c, double kept) {
  const double a_pair = c.direction == Direction::kBackward ? 10 : 4;
  return a_pair * static_cast<double>(c.batch * c.heads * c.problem.queries * c.problem.dim) *
         static_cast<double>(c.problem.keys) * kept;
}

/// q, k, v, out; for gradients q, k, v, dO, dQ, dK, dV.
double bytes(const Case& c) {
  const bool backward = c.direction == Direction::kBackward;
  const auto of_queries = static_cast<double>(c.heads * c.problem.queries),
             of_keys = static_cast<double>(c.heads / c.groups() * c.problem.keys);
  const double rows = backward ? 3 * of_queries + 4 * of_keys : 2 * of_queries + 2 * of_keys;
  return rows * static_cast<double>(c.batch * c.problem.dim * (c.dtype == Element::kF32 ? 4 : 2));
}

}  // namespace

std::vector<Timing> bench(const std::vector<Case>& cases, const Settings& settings, int repeats) {
  constexpr double kMostForScalar = 2e10;  // operations: the plain kernels take some four seconds for them
  std::vector<Timing> result;
  std::map<std::string, double> dense;  // line, isa → seconds of the full twin
  const int threads = settings.threads[0];
  const Target scalar{"scalar", Isa::kScalar, nullptr};
  for (const Case& c : cases) {
    if (c.expect == Expect::kRefused) continue;
    Timed timed(c);
    double of_scalar = 0;
    for (const Target& target : settings.targets) {
      const std::vector<double> seconds = timed.time(target, threads, repeats);
      Timing t{to_line(c), target.name, threads, median(seconds), median_deviation(seconds)};
      const Case twin = dense_twin(c);
      const std::string key = fmt::format("{} {}", to_line(twin), t.isa);
      if (c.problem.mode == Mode::kFull) dense[key] = t.median;
      if (dense.find(key) == dense.end()) dense[key] = median(Timed(twin).time(target, threads, repeats));
      t.dense_ratio = dense[key] / t.median;
      const double kept = timed.kept_share(), work = operations(c, kept);
      if (target.isa == Isa::kScalar && !target.gpu) of_scalar = t.median;
      if (of_scalar == 0 && work <= kMostForScalar) of_scalar = median(timed.time(scalar, threads, 1));
      t.scalar_ratio = of_scalar / t.median;
      t.executed_gflops = work / t.median * 1e-9;
      t.gigabytes = bytes(c) / t.median * 1e-9;
      result.push_back(t);
    }
  }
  return result;
}

std::string to_csv(const std::vector<Timing>& timings) {
  std::string text = "case,isa,threads,median_s,deviation_s,dense_ratio,scalar_ratio,executed_gflops,gigabytes_per_s\n";
  for (const Timing& t : timings)
    text += fmt::format("\"{}\",{},{},{:.6g},{:.3g},{:.4g},{:.4g},{:.4g},{:.4g}\n", t.line, t.isa, t.threads, t.median,
                        t.deviation, t.dense_ratio, t.scalar_ratio, t.executed_gflops, t.gigabytes);
  return text;
}

std::string to_json(const std::vector<Timing>& timings) {
  nlohmann::json rows = nlohmann::json::array();
  for (const Timing& t : timings)
    rows.push_back({{"case", t.line},
                    {"isa", t.isa},
                    {"threads", t.threads},
                    {"median_s", t.median},
                    {"deviation_s", t.deviation},
                    {"dense_ratio", t.dense_ratio},
                    {"scalar_ratio", t.scalar_ratio},
                    {"executed_gflops", t.executed_gflops},
                    {"gigabytes_per_s", t.gigabytes}});
  return nlohmann::json{{"cpu", std::string(cpu_name())},
                        {"clock_ghz", clock_ghz()},
                        {"commit", commit()},
                        {"compiler", compiler()},
                        {"timings", rows}}
             .dump(1) +
         "\n";
}

std::string compare(const std::vector<Timing>& now, const std::string& old_path, int& slower) {
  constexpr double kLeastChange = 0.05, kDeviations = 3;  // below 5 % or 3 deviations of both runs it is noise
  std::ifstream file(old_path);
  if (!file) throw std::runtime_error(old_path + ": cannot be opened");
  const nlohmann::json old = nlohmann::json::parse(file);
  std::string text;
  for (const Timing& t : now)
    for (const auto& row : old.at("timings")) {
      if (row.at("case") != t.line || row.at("isa") != t.isa || row.at("threads") != t.threads) continue;
      const double before = row.at("median_s"), noise = kDeviations * (row.at("deviation_s").get<double>() + t.deviation);
      const double change = t.median - before;
      const char* word = std::abs(change) <= std::max(kLeastChange * before, noise) ? "same" : change > 0 ? "SLOWER" : "faster";
      slower += *word == 'S' ? 1 : 0;
      text += fmt::format("{:<7} {:>9.3f} ms -> {:>9.3f} ms ({:+.1f} %)  {} {}\n", word, before * 1e3, t.median * 1e3,
                          100 * change / before, t.isa, t.line);
    }
  return text;
}

}  // namespace sla2::check
