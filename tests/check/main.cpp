// SPDX-License-Identifier: Apache-2.0
// sla2_check: every attention kernel against an fp64 oracle, and against the clock. docs/check.md tells how to read it.
#include <unistd.h>

#include <chrono>
#include <CLI/CLI.hpp>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <set>

#include "bench.h"
#include "dump.h"
#include "errors.h"
#include "machine.h"
#include "ops.h"

namespace {

using namespace sla2;
using namespace sla2::check;

struct Options {
  std::vector<std::string> lists, lines, dump;
  std::string isa = "all", json, csv, old, op;
  std::vector<int> threads;
  bool list = false, verbose = false, bench = false, errors = false;
  int repeats = 5;
  int64_t seed = 0;
};

std::vector<Case> read_cases(const Options& o) {
  std::vector<Case> cases;
  for (const std::string& line : o.lines) cases.push_back(parse_case(line, "--case"));
  for (const std::string& list : o.lists) {
    const bool is_name = list.find('/') == std::string::npos && list.find('.') == std::string::npos;
    const std::vector<Case> more = read_list(is_name ? std::string(SLA2_CHECK_LISTS) + "/" + list + ".txt" : list);
    cases.insert(cases.end(), more.begin(), more.end());
  }
  for (Case& c : cases) c.seed += o.seed;
  return cases;
}

std::vector<Target> read_targets(const std::string& word, std::string& note) {
  if (word.starts_with("emulated")) {
    std::vector<Target> gpus = emulated_gpus();
    if (word != "emulated") std::erase_if(gpus, [&](const Target& target) { return target.name != word; });
    if (!gpus.empty()) return gpus;
  }
  if (std::shared_ptr<TestGpu> gpu = gpu_called(word)) return {{word, Isa::kScalar, std::move(gpu)}};
  const std::vector<Target> here = kernels_here(note);
  if (word == "all") return here;
  if (word == "best") return {here.back()};
  for (const Target& target : here)
    if (target.name == word) return {target};
  throw std::runtime_error(fmt::format(
      "--isa: expected all, best, emulated, gpu, gpu:N or one with kernels of its own on this CPU, got '{}'\n{}", word, note));
}

void write_file(const std::string& path, const std::string& text) {
  if (path.empty()) return;
  std::ofstream file(path);
  file << text;
  if (!file) throw std::runtime_error(path + ": cannot be written");
}

/// Instruction sets that no case reached: a run that proves nothing must say so.
void add_untested(const std::vector<Target>& targets, std::vector<Finding>& findings) {
  std::set<std::string> reached;
  for (const Finding& f : findings)
    if (f.status == Status::kPass || f.status == Status::kFail) reached.insert(f.isa);
  for (const Target& target : targets)
    if (reached.count(target.name) == 0)
      findings.push_back({Status::kUntested, target.name, "-", "-", "no case compared anything on this instruction set", 0});
}

void print(const Finding& f) {
  std::printf("%-10s %-11s %-14s %s\n", name_of(f.status), f.isa.c_str(), f.where.c_str(), f.reason.c_str());
  std::printf("           repeat: sla2_check --case '%s'%s\n", f.line.c_str(), f.isa == "-" ? "" : (" --isa " + f.isa).c_str());
}

int run_checks(const Options& o, const std::vector<Case>& cases, const Settings& settings) {
  const auto start = std::chrono::steady_clock::now();
  std::vector<Finding> findings;
  std::map<Status, int> counts;
  const auto report = [&](const Finding& f) {
    ++counts[f.status];
    if (o.verbose || (f.status != Status::kPass && f.status != Status::kSkip)) print(f);
    std::fflush(stdout);
  };
  for (const Case& c : cases)
    for (const Finding& f : check_case(c, settings)) {
      findings.push_back(f);
      report(f);
    }
  const size_t ran = findings.size();
  for (const std::string& wrong : lone_ops(op_versions())) findings.push_back({Status::kFail, "-", "-", "-", wrong, 0});
  add_untested(settings.targets, findings);
  for (size_t i = ran; i < findings.size(); ++i) report(findings[i]);

  std::map<std::string, int> skipped;
  for (const Finding& f : findings)
    if (f.status == Status::kSkip) ++skipped[f.reason];
  for (const auto& [reason, count] : skipped) std::printf("SKIP(%s): %d\n", reason.c_str(), count);
  const auto explained =
      std::count_if(findings.begin(), findings.end(), [](const Finding& f) { return f.reason.starts_with("explained"); });
  const Finding* closest = nullptr;
  for (const Finding& f : findings)
    if (f.status == Status::kPass && (closest == nullptr || f.share > closest->share)) closest = &f;
  if (closest != nullptr)
    std::printf("nearest to its budget: %.0f %%, %s %s\n", 100 * closest->share, closest->isa.c_str(), closest->line.c_str());
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  std::printf("%zu cases: %d PASS (%d explained), %d FAIL, %d SKIP, %d MISTRUSTED, %d UNTESTED in %.1f s\n", cases.size(),
              counts[Status::kPass], static_cast<int>(explained), counts[Status::kFail], counts[Status::kSkip],
              counts[Status::kMistrusted], counts[Status::kUntested], seconds);
  return counts[Status::kFail] + counts[Status::kMistrusted] + counts[Status::kUntested] > 0 ? 1 : 0;
}

int run_bench(const Options& o, const std::vector<Case>& cases, const Settings& settings) {
  const std::vector<Timing> timings = bench(cases, settings, o.repeats);
  std::printf("%s, %.2f GHz, %d threads, %s, commit %s\n", std::string(cpu_name()).c_str(), clock_ghz(), settings.threads[0],
              compiler().c_str(), commit().c_str());
  for (const Timing& t : timings)
    std::printf("%9.3f ms ± %.3f  %6.2f x dense %7s x scalar  %7.1f GFLOP/s executed  %6.2f GB/s  %-11s %s\n", t.median * 1e3,
                t.deviation * 1e3, t.dense_ratio, t.scalar_ratio > 0 ? fmt::format("{:.1f}", t.scalar_ratio).c_str() : "-",
                t.executed_gflops, t.gigabytes, t.isa.c_str(), t.line.c_str());
  write_file(o.csv, to_csv(timings));
  write_file(o.json, to_json(timings));
  if (timings.empty()) throw std::runtime_error("nothing was timed: no case runs on this build");
  if (o.old.empty()) return 0;
  int slower = 0;
  std::printf("%s", compare(timings, o.old, slower).c_str());
  std::printf("%d slower than %s beyond noise\n", slower, o.old.c_str());
  return slower > 0 ? 1 : 0;
}

/// Checks run on more threads than there are cores, and GCC's idle OpenMP threads spin there: four fifths of the time. OpenMP
/// reads its settings as it is loaded, so the program starts itself anew; where it cannot, it spins. Timings keep the library's
/// own way.
void start_without_spinning(char** argv) {
  if (std::getenv("OMP_WAIT_POLICY") != nullptr || setenv("OMP_WAIT_POLICY", "passive", 0) != 0) return;
  execv("/proc/self/exe", argv);
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app(
      "Checks the attention kernels of libsla2 against an fp64 oracle; exit code 0: nothing failed, mistrusted or untested; 1: "
      "something; 2: usage.");
  Options o;
  app.add_option("lists", o.lists, "case lists: smoke, ci, nightly, bench, errors, wan_1_3b, wan_14b, cuda, hopper, or a path");
  app.add_option("--case", o.lines, "one case as a line of key=value; repeatable")
      ->take_all()
      ->expected(1)
      ->allow_extra_args(false);
  app.add_option(
         "--isa", o.isa,
         "all, best, scalar, avx2, avx512, avx512_vnni or avx512_bf16; or the CUDA kernels: gpu or gpu:N on that GPU, emulated, "
         "emulated_sm80, "
         "emulated_sm89, far:80 (emulated, with memory of its own)")
      ->capture_default_str();
  app.add_option("--threads", o.threads, "thread counts whose bits must agree (1,2,3,7); the first one times")->delimiter(',');
  app.add_option("--seed", o.seed, "added to the seed of every case: other numbers for the same lines")
      ->check(CLI::Range(0, 1 << 29));
  app.add_flag("--list", o.list, "print the cases and stop");
  app.add_flag("-v,--verbose", o.verbose, "print every finding");
  app.add_option("--op", o.op, "print which instruction sets have a version of the ops of this name, * for all, and stop");
  app.add_flag("--errors", o.errors, "print how far fp32, bf16, 8 bits and FP8 are from fp64 on the cases instead");
  app.add_flag("--bench", o.bench, "time the cases instead");
  app.add_option("--repeats", o.repeats, "timed calls per case")->capture_default_str();
  app.add_option("--csv", o.csv, "with --bench: write the table");
  app.add_option("--json", o.json, "with --bench: write what --compare reads");
  app.add_option("--compare", o.old, "with --bench: exit 1 where slower than this earlier --json, beyond noise");
  app.add_option("--dump-oracle", o.dump, "CASE DIR: write the oracle's inputs, outputs and gradients")->expected(2);
  app.footer("Keys of a case, default, meaning:\n" + describe_keys());
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  if (!o.bench) start_without_spinning(argv);
  try {
    if (!o.op.empty()) {
      const std::string table = op_table(o.op);
      if (table.empty()) throw std::runtime_error(fmt::format("--op: no op is called '{}'; --op '*' prints all", o.op));
      return std::printf("%s", table.c_str()), 0;
    }
    if (!o.dump.empty()) return dump_oracle(parse_case(o.dump[0], "--dump-oracle"), o.dump[1]), 0;
    const std::vector<Case> cases = read_cases(o);
    if (cases.empty()) throw std::runtime_error("no cases: name a list (smoke, ci) or give --case; --help tells more");
    if (o.list) {
      for (const Case& c : cases) std::printf("%s\n", to_line(c).c_str());
      return 0;
    }
    std::string note;
    Settings settings;
    settings.targets = read_targets(o.isa, note);
    if (!o.threads.empty())
      settings.threads = o.threads;
    else if (o.bench)
      settings.threads = {physical_threads()};
    std::printf("%s", note.c_str());
    if (o.errors) return std::printf("%s", error_table(cases, settings.targets.back()).c_str()), 0;
    return o.bench ? run_bench(o, cases, settings) : run_checks(o, cases, settings);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "sla2_check: %s\n", error.what());
    return 2;
  }
}
