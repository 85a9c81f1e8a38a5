// SPDX-License-Identifier: Apache-2.0
#include "bench.h"

#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

#include "fill.h"

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

}  // namespace

std::vector<Timing> bench(const std::vector<Case>& cases, const Settings& settings, int repeats) {
  std::vector<Timing> result;
  std::map<std::string, double> dense;  // line, isa, threads → seconds of the full twin
  const int threads = settings.threads[0];
  for (const Case& c : cases) {
    if (c.expect == Expect::kRefused || c.direction == Direction::kBackward) continue;
    const std::vector<Head> heads = make_heads(c);
    Subject subject(c, heads);
    for (const Target& target : settings.targets) {
      const std::vector<double> seconds = subject.time(target, threads, repeats);
      Timing t{to_line(c), target.name, threads, median(seconds), median_deviation(seconds), 1, 0};
      const Case twin = dense_twin(c);
      const std::string key = fmt::format("{} {}", to_line(twin), t.isa);
      if (c.problem.mode == Mode::kFull) dense[key] = t.median;
      if (dense.find(key) == dense.end()) dense[key] = median(Subject(twin, heads).time(target, threads, repeats));
      t.dense_ratio = dense[key] / t.median;
      double kept = c.problem.mode == Mode::kFull ? 1 : 0;
      if (kept == 0)
        for (const Head& head : heads) {
          const Selection s = select(c.problem, head);
          for (const double m : s.mask.data) kept += m / static_cast<double>(s.mask.data.size() * heads.size());
        }
      const double all =
          4.0 * static_cast<double>(c.batch * c.heads * c.problem.queries * c.problem.dim) * static_cast<double>(c.problem.keys);
      t.executed_gflops = all * kept / t.median * 1e-9;
      result.push_back(t);
    }
  }
  return result;
}

std::string to_csv(const std::vector<Timing>& timings) {
  std::string text = "case,isa,threads,median_s,deviation_s,dense_ratio,executed_gflops\n";
  for (const Timing& t : timings)
    text += fmt::format("\"{}\",{},{},{:.6g},{:.3g},{:.4g},{:.4g}\n", t.line, t.isa, t.threads, t.median, t.deviation,
                        t.dense_ratio, t.executed_gflops);
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
                    {"executed_gflops", t.executed_gflops}});
  return nlohmann::json{{"cpu", std::string(cpu_name())}, {"timings", rows}}.dump(1) + "\n";
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
