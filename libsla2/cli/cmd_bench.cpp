// SPDX-License-Identifier: Apache-2.0
// sla2 bench: seconds per phase of a generation, and full against SLA2 attention; medians.
#include <cstdio>
#include <nlohmann/json.hpp>

#include "attention_bench.h"
#include "commands.h"
#include "json_events.h"
#include "locate.h"
#include "options.h"
#include "progress.h"
#include "run_job.h"
#include "settings.h"

namespace sla2::cli {

namespace {

using nlohmann::json;

constexpr int kMostRuns = 100;
constexpr const char* kBenchPrompt = "a red ball bounces in the meadow by day";

class Silent final : public JobObserver {
 public:
  void on_progress(const sla2_progress&) override {}
  void on_preview(const sla2_frames&, int32_t) override {}
  void on_note(const std::string&) override {}
};

json bench_generate(const SettingsSource& source, int runs) {
  json phases{{"load", json::array()},
              {"text", json::array()},
              {"sample", json::array()},
              {"decode", json::array()},
              {"total", json::array()}};
  json result;
  std::vector<double> steps;
  for (int run = 0; run < runs; ++run) {
    Settings settings = gather_settings(source);
    if (param_text(settings.params.get(), "prompt").empty())
      require(sla2_params_set_text(settings.params.get(), "prompt", kBenchPrompt));
    JobRequest request;
    request.params = std::move(settings.params);  // without a cache of embeddings: encoding is one of the phases
    request.model = settings.model;
    Silent observer;
    CancelPoint cancel;
    ModelCache models;  // opened anew each time: loading is one of the phases
    const json report = json::parse(run_job(request, observer, cancel, models).report);
    for (auto& [phase, list] : phases.items()) list.push_back(report.at("seconds").at(phase));
    for (const json& step : report.at("step_seconds")) steps.push_back(step.get<double>());
    result["model"] = report.at("model").at("name");
    result["tokens"] = report.at("tokens");
    result["peak_resident_bytes"] = report.at("memory").at("peak_resident_bytes");
  }
  for (const auto& [phase, list] : phases.items()) result["seconds"][phase] = median(list.get<std::vector<double>>());
  result["step_seconds"] = median(steps);
  return result;
}

void print_tables(const json& report) {
  if (report.contains("generate")) {
    const json& run = report["generate"];
    std::puts(fmt::format("{}: {} tokens, median of {} runs", run["model"].get<std::string>(), run["tokens"].dump(),
                          report["runs"].dump())
                  .c_str());
    for (const char* phase : {"load", "text", "sample", "decode", "total"}) {
      std::puts(fmt::format("  {:<8} {:8.3f} s", phase, run["seconds"][phase].get<double>()).c_str());
    }
    std::puts(fmt::format("  {:<8} {:8.3f} s", "one step", run["step_seconds"].get<double>()).c_str());
    std::puts(fmt::format("  peak memory {}", bytes_text(run["peak_resident_bytes"].get<uint64_t>())).c_str());
  }
  if (report.contains("attention")) print_attention(report["attention"]);
}

int threads_of(const ParamFlags& params) {
  const Params values = make_params();
  for (const auto& [name, value] : params.given())
    if (name == "threads") require(sla2_params_set_text(values.get(), "threads", value.c_str()));
  return std::stoi(param_text(values.get(), "threads"));
}

}  // namespace

void add_bench(CLI::App& app, Action& action) {
  struct Options {
    SettingsSource source;
    ParamFlags params;
    int runs = 3;
    bool json = false, only_attention = false, only_generate = false;
    std::vector<int64_t> tokens{kBenchTokens.begin(), kBenchTokens.end()};
  };
  const auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("bench", "Measure the phases of a generation, and full against SLA2 attention");
  command->add_option("--preset", options->source.preset, "Settings by name or file");
  command->add_option("-n,--runs", options->runs, "Runs of which the median is shown [default 3]")
      ->check(CLI::Range(1, kMostRuns).description(""))
      ->type_name("INT");
  command->add_flag("--json", options->json, "As JSON");
  auto* attention = command->add_flag("--attention-only", options->only_attention, "Only the attention table");
  command->add_option("--tokens", options->tokens, "Tokens of the attention table [default 256 … 4096]")
      ->delimiter(',')
      ->check(CLI::Range(int64_t{1}, kMostBenchTokens).description(""))
      ->type_name("N,N,…");
  command->add_flag("--generate-only", options->only_generate, "Only the generation")->excludes(attention);
  options->params.add_to(command);
  command->footer(
      "Examples:\n  sla2 bench --preset demo --steps 4\n"
      "  sla2 bench --attention-only --threads 1 --tokens 256,512,1024,2048      from where on sparse attention is faster\n");
  command->callback([options, &action] {
    action = [options] {
      options->source.values = options->params.given();
      json report{{"version", sla2_version()}, {"runs", options->runs}};
      if (!options->only_attention) report["generate"] = bench_generate(options->source, options->runs);
      if (!options->only_generate)
        report["attention"] = bench_attention(options->tokens, threads_of(options->params), options->runs);
      if (options->json)
        std::puts(event_line(report).c_str());
      else
        print_tables(report);
      return ExitCode::kOk;
    };
  });
}

}  // namespace sla2::cli
