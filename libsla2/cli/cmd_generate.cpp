// SPDX-License-Identifier: Apache-2.0
// sla2 generate: a prompt becomes a video.
#include "commands.h"
#include "options.h"
#include "output_flags.h"
#include "plan_job.h"
#include "prepare.h"
#include "session.h"
#include "source_flags.h"

namespace sla2::cli {

namespace {

struct GenerateOptions {
  SettingsSource source;
  OutputFlags output;
  ParamFlags params;
  Verbosity verbosity;
  bool plan = false;
};

constexpr const char* kExamples =
    "Examples:\n"
    "  sla2 generate --preset demo -p \"a red balloon rises over the sea at sunset\" -o balloon.mp4 --sheet balloon.png\n"
    "  sla2 generate --from balloon.mp4 -s 7 -o again.webm      the same settings, another seed\n"
    "  sla2 generate --preset demo -p \"a ball\" -o frames/       a folder of PNGs\n";

JobRequest prepare(const GenerateOptions& options) {
  SettingsSource source = options.source;
  source.values = options.params.given();
  OutputChoice choice = options.output.choice();
  choice.only_plan = options.plan;
  return prepare_generate(source, choice);
}

ExitCode generate(const std::shared_ptr<GenerateOptions>& options) {
  if (options->plan) return print_plan(prepare(*options), options->verbosity.json), ExitCode::kOk;
  return run_in_foreground(options->verbosity, [options] { return prepare(*options); });
}

}  // namespace

void add_generate(CLI::App& app, Action& action) {
  const auto options = std::make_shared<GenerateOptions>();
  CLI::App* command = app.add_subcommand("generate", "Make a video from a prompt");
  add_source_flags(command, options->source);
  options->output.add_to(command);
  command->add_flag("--plan", options->plan, "Print the memory plan and end: phases, weights, activations, peak; nothing is run")
      ->group("Output");
  options->params.add_to(command);
  options->verbosity.add_to(command);
  command->footer(kExamples);
  command->callback([options, &action] { action = [options] { return generate(options); }; });
}

}  // namespace sla2::cli
