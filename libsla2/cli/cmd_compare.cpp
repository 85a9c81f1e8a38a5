// SPDX-License-Identifier: Apache-2.0
// sla2 compare: the same run with full attention and as asked; both clips side by side, what it saved and what it changed.
#include <chrono>
#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>

#include "clip_memory.h"
#include "commands.h"
#include "options.h"
#include "output_flags.h"
#include "prepare.h"
#include "session.h"
#include "source_flags.h"

namespace sla2::cli {

namespace {

using nlohmann::ordered_json;

struct CompareOptions {
  SettingsSource source;
  OutputFlags output;
  ParamFlags params;
  Verbosity verbosity;
};

constexpr const char* kCompareExamples =
    "Example:\n"
    "  sla2 compare --preset demo -p \"a red balloon rises over the sea at sunset\" --sparsity 0.9 -o both.mp4\n";

void unset(JobRequest& request, std::initializer_list<const char*> names) {
  for (const char* const name : names) {
    if (param_is_set(request.params.get(), name)) require(sla2_params_unset(request.params.get(), name));
  }
}

/// Peak signal to noise ratio of 8-bit channels in dB; nothing where the clips are equal.
std::optional<double> psnr(const ClipMemory& a, const ClipMemory& b) {
  double squares = 0;
  for (size_t i = 0; i < a.rgb().size(); ++i) {
    const double difference = static_cast<double>(a.rgb()[i]) - static_cast<double>(b.rgb()[i]);
    squares += difference * difference;
  }
  if (squares == 0) return std::nullopt;
  constexpr double kPeak = 255;
  return 10 * std::log10(kPeak * kPeak * static_cast<double>(a.rgb().size()) / squares);
}

void write_side_by_side(const ClipMemory& left, const ClipMemory& right, Outputs& outputs) {
  ClipInfo clip = right.clip();
  clip.width *= 2;
  outputs.begin(clip);
  std::vector<uint8_t> both(2 * right.frame_bytes());
  for (int frame = 0; frame < clip.frames; ++frame) {
    auto to = both.begin();
    for (int row = 0; row < clip.height; ++row) {
      to = std::copy_n(left.row(frame, row), left.row_bytes(), to);
      to = std::copy_n(right.row(frame, row), right.row_bytes(), to);
    }
    outputs.add({both.data(), 2 * right.row_bytes()});
  }
  outputs.finish();
}

/// The LoRAs of a run but for the one that its router pack was trained with, as the parameter's text: full attention is compared
/// as the model has it by itself.
std::string loras_without_the_packs(const ordered_json& report) {
  const ordered_json& pack = report.at("pack");
  const std::string needed = pack.is_object() ? pack.value("requires", "") : "";
  std::string text;
  for (const ordered_json& lora : report.at("lora")) {
    if (lora.at("digest") == needed) continue;
    text +=
        fmt::format("{}{}@{}", text.empty() ? "" : "; ", lora.at("path").get<std::string>(), lora.at("strength").get<double>());
  }
  return text;
}

double sampling_seconds(const ordered_json& report) { return report.at("seconds").at("sample").get<double>(); }

JobResult compare(const CompareOptions& options, JobObserver& observer, CancelPoint& cancel, ModelCache& models) {
  const auto started = std::chrono::steady_clock::now();
  SettingsSource source = options.source;
  source.values = options.params.given();
  JobRequest asked = prepare_generate(source, options.output.choice());
  const OutputPlan plan = std::exchange(asked.plan, {});
  asked.checkpoint.clear();
  unset(asked, {"checkpoint"});
  const auto text = [&](const char* name) { return param_text(asked.params.get(), name); };
  // A sparsity alone means sla2 (the table's help).
  const bool implied =
      !param_is_set(asked.params.get(), "attention") && param_is_set(asked.params.get(), "sparsity") && text("sparsity") != "0";
  if (!implied && text("attention") == "full" && text("attention_schedule").empty() && text("bits") == "16" &&
      text("pack").empty()) {
    fail(SLA2_E_ARGUMENT,
         "compare: both runs would have full attention; add --attention sla2 --sparsity 0.9, a pack or a preset");
  }
  JobRequest full;
  full.params = copy_params(asked.params.get());
  full.model = asked.model;
  unset(full, {"latent_out"});
  for_each_param([&](const sla2_param_info& info) {
    if (std::string_view(info.group) == "Attention") unset(full, {info.name});
  });
  require(sla2_params_set_text(full.params.get(), "attention", "full"));

  Outputs outputs(plan);  // first: an unwritable target is found before hours of sampling
  std::unique_ptr<TempFile> report_file;
  if (!plan.report.empty()) report_file = std::make_unique<TempFile>(plan.report);
  ClipMemory left, right;
  full.tap = &left;
  asked.tap = &right;
  observer.on_note("first as asked");
  const JobResult first = run_job(asked, observer, cancel, models);
  const ordered_json asked_report = ordered_json::parse(first.report);
  require(sla2_params_set_text(full.params.get(), "lora", loras_without_the_packs(asked_report).c_str()));
  observer.on_note("and now with full attention");
  const ordered_json full_report = ordered_json::parse(run_job(full, observer, cancel, models).report);
  write_side_by_side(left, right, outputs);

  JobResult result;
  result.written = outputs.written();
  result.report_path = plan.report;
  result.frames = first.frames;
  const double full_seconds = sampling_seconds(full_report), asked_seconds = sampling_seconds(asked_report);
  const std::optional<double> difference = psnr(left, right);
  ordered_json report{{"format", "sla2.comparison"},
                      {"version", 1},
                      {"sample_seconds", {{"full", full_seconds}, {"asked", asked_seconds}}},
                      {"speed", full_seconds / asked_seconds},
                      {"psnr_db", difference ? ordered_json(*difference) : ordered_json(nullptr)},
                      {"full", full_report},
                      {"asked", asked_report}};
  for (const WrittenFile& file : result.written) report["outputs"].push_back({{"path", file.path}, {"encoder", file.encoder}});
  result.report = report.dump(2, ' ', false, ordered_json::error_handler_t::replace) + "\n";
  if (report_file) {
    report_file->write({reinterpret_cast<const uint8_t*>(result.report.data()), result.report.size()});
    report_file->commit();
  }
  observer.on_note(fmt::format("left: full attention, sampled in {:.2f} s; right: as asked, {:.2f} s, {:.2f} times as fast",
                               full_seconds, asked_seconds, full_seconds / asked_seconds));
  observer.on_note(difference ? fmt::format("the clips differ by {:.1f} dB (PSNR of all pixels)", *difference)
                              : std::string("the clips are equal"));
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
  return result;
}

}  // namespace

void add_compare(CLI::App& app, Action& action) {
  const auto options = std::make_shared<CompareOptions>();
  CLI::App* command = app.add_subcommand("compare", "Make a video twice, with full attention and as asked, side by side");
  add_source_flags(command, options->source);
  options->output.add_to(command, false);
  options->params.add_to(command);
  options->verbosity.add_to(command);
  command->footer(kCompareExamples);
  command->callback([options, &action] {
    action = [options] {
      return run_in_foreground(options->verbosity,
                               ForegroundWork([options](JobObserver& observer, CancelPoint& cancel, ModelCache& models,
                                                        std::string&) { return compare(*options, observer, cancel, models); }));
    };
  });
}

}  // namespace sla2::cli
