// SPDX-License-Identifier: Apache-2.0
// sla2 resume: go on from a checkpoint; the frames are those of an uninterrupted run.
#include "commands.h"
#include "output_flags.h"
#include "prepare.h"
#include "session.h"

namespace sla2::cli {

namespace {

struct ResumeOptions {
  std::string checkpoint, model, pack, lora, threads, vae_tile, vae_precision;
  OutputFlags output;
  Verbosity verbosity;
};

}  // namespace

void add_resume(CLI::App& app, Action& action) {
  const auto options = std::make_shared<ResumeOptions>();
  CLI::App* command = app.add_subcommand("resume", "Go on with a stopped run");
  command->add_option("checkpoint", options->checkpoint, "OUT.sla2ckpt of the stopped run")->required()->type_name("CHECKPOINT");
  command->add_option("-m,--model", options->model, "The model, where it has moved since")->type_name("PATH");
  command->add_option("--pack", options->pack, "The router pack, where it has moved since")->type_name("PATH");
  command->add_option("--lora", options->lora, "The LoRA files and strengths, where they have moved since")->type_name("TEXT");
  command->add_option("--threads", options->threads, "CPU threads; 0: all [as saved]")->type_name("INT");
  command->add_option("--vae-tile", options->vae_tile, "Decode in tiles of so many pixels; once all steps are done [as saved]")
      ->type_name("INT");
  command->add_option("--vae-precision", options->vae_precision, "auto, fp32 or bf16; once all steps are done [as saved]")
      ->type_name("TEXT");
  options->output.add_to(command);
  options->verbosity.add_to(command);
  command->footer("Example:\n  sla2 resume balloon.mp4.sla2ckpt\n");
  command->callback([options, &action] {
    action = [options] {
      return run_in_foreground(options->verbosity, [options] {
        return prepare_resume({options->checkpoint, options->model, options->pack, options->lora, options->threads,
                               options->vae_tile, options->vae_precision},
                              options->output.choice());
      });
    };
  });
}

}  // namespace sla2::cli
