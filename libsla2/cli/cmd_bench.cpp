// SPDX-License-Identifier: Apache-2.0
// sla2 bench: seconds per phase of a generation, and full against SLA2 attention; medians.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <random>

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

constexpr int64_t kHeads = 4, kHeadDim = 128;  // head dimension of every published Wan model
constexpr std::array<int64_t, 3> kTokens{1024, 2048, 4096};
constexpr std::array<double, 2> kSparsities{0.75, 0.9};
constexpr size_t kAlignment = 64;  // sla2_attention_forward() asks for it
constexpr int kMostRuns = 100;
constexpr const char* kBenchPrompt = "a red ball bounces in the meadow by day";

double median(std::vector<double> values) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  return (values[(values.size() - 1) / 2] + values[values.size() / 2]) / 2;
}

struct AlignedFree {
  void operator()(void* memory) const noexcept { std::free(memory); }
};
using Buffer = std::unique_ptr<void, AlignedFree>;

Buffer aligned_bytes(uint64_t bytes) {
  Buffer buffer(std::aligned_alloc(kAlignment, (bytes + kAlignment) / kAlignment * kAlignment));
  if (!buffer) fail(SLA2_E_MEMORY, "the attention bench needs {}", bytes_text(bytes));
  return buffer;
}

/// A random [1, heads, tokens, head_dim] tensor.
struct Operand {
  Buffer memory;
  sla2_tensor view;
  Operand(int64_t tokens, uint32_t seed)
      : memory(aligned_bytes(static_cast<uint64_t>(kHeads * tokens * kHeadDim) * sizeof(float))) {
    const std::array<int64_t, 4> shape{1, kHeads, tokens, kHeadDim};
    require(sla2_tensor_init(&view, sizeof view));
    require(sla2_tensor_set_contiguous(&view, memory.get(), SLA2_DTYPE_FLOAT, 32, 4, shape.data()));
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    std::generate_n(static_cast<float*>(memory.get()), kHeads * tokens * kHeadDim, [&] { return normal(random); });
  }
};

double attention_seconds(int64_t tokens, int32_t mode, double sparsity, int runs) {
  sla2_attention_config config;
  require(sla2_attention_config_init(&config, sizeof config));
  config.mode = mode;
  config.sparsity = sparsity;
  config.batch = 1;
  config.heads = kHeads;
  config.query_tokens = config.key_tokens = tokens;
  config.head_dim = kHeadDim;
  sla2_attention* created = nullptr;
  require(sla2_attention_create(&config, &created));
  const Attention plan(created);
  uint64_t bytes = 0;
  require(sla2_attention_workspace_size(plan.get(), &bytes));
  const Buffer workspace = aligned_bytes(bytes);
  const Operand q(tokens, 1), k(tokens, 2), v(tokens, 3);
  Operand out(tokens, 4);
  sla2_qkv in;
  require(sla2_qkv_init(&in, sizeof in));
  in.q = &q.view;
  in.k = &k.view;
  in.v = &v.view;
  sla2_exec exec;
  require(sla2_exec_init(&exec, sizeof exec));
  std::vector<double> seconds;
  for (int run = 0; run <= runs; ++run) {  // the first warms up
    const auto started = std::chrono::steady_clock::now();
    require(sla2_attention_forward(plan.get(), &exec, &in, workspace.get(), bytes, &out.view));
    if (run > 0) seconds.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count());
  }
  return median(seconds);
}

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
    request.params = std::move(settings.params);
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

json bench_attention(int runs) {
  json rows = json::array();
  for (const int64_t tokens : kTokens) {
    json row{{"tokens", tokens},
             {"heads", kHeads},
             {"head_dim", kHeadDim},
             {"full", attention_seconds(tokens, SLA2_MODE_FULL, 0, runs)}};
    for (const double sparsity : kSparsities) {
      row["sla2"].push_back({{"sparsity", sparsity}, {"seconds", attention_seconds(tokens, SLA2_MODE_SLA2, sparsity, runs)}});
    }
    rows.push_back(std::move(row));
  }
  return rows;
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
  if (!report.contains("attention")) return;
  std::puts(
      fmt::format("attention, fp32, {} heads of {}, milliseconds, median of {} runs", kHeads, kHeadDim, report["runs"].dump())
          .c_str());
  std::string head = fmt::format("  {:>7} {:>9}", "tokens", "full");
  for (const double sparsity : kSparsities) head += fmt::format(" {:>16}", fmt::format("sla2 {:.0f} %", sparsity * 100));
  std::puts(head.c_str());
  for (const json& row : report["attention"]) {
    const double full = row["full"].get<double>();
    std::string text = fmt::format("  {:>7} {:>9.2f}", row["tokens"].get<int64_t>(), full * 1e3);
    for (const json& sparse : row["sla2"]) {
      const double seconds = sparse["seconds"].get<double>();
      text += fmt::format(" {:>8.2f} {:>5.2f} x", seconds * 1e3, full / seconds);
    }
    std::puts(text.c_str());
  }
}

}  // namespace

void add_bench(CLI::App& app, Action& action) {
  struct Options {
    SettingsSource source;
    ParamFlags params;
    int runs = 3;
    bool json = false, only_attention = false, only_generate = false;
  };
  const auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("bench", "Measure the phases of a generation, and full against SLA2 attention");
  command->add_option("--preset", options->source.preset, "Settings by name or file");
  command->add_option("-n,--runs", options->runs, "Runs of which the median is shown [default 3]")
      ->check(CLI::Range(1, kMostRuns).description(""))
      ->type_name("INT");
  command->add_flag("--json", options->json, "As JSON");
  auto* attention = command->add_flag("--attention-only", options->only_attention, "Only the attention table");
  command->add_flag("--generate-only", options->only_generate, "Only the generation")->excludes(attention);
  options->params.add_to(command);
  command->footer("Example:\n  sla2 bench --preset demo --steps 4\n");
  command->callback([options, &action] {
    action = [options] {
      options->source.values = options->params.given();
      json report{{"version", sla2_version()}, {"runs", options->runs}};
      if (!options->only_attention) report["generate"] = bench_generate(options->source, options->runs);
      if (!options->only_generate) report["attention"] = bench_attention(options->runs);
      if (options->json)
        std::puts(event_line(report).c_str());
      else
        print_tables(report);
      return ExitCode::kOk;
    };
  });
}

}  // namespace sla2::cli
