// SPDX-License-Identifier: Apache-2.0
// The flags that say what is written: -o, --sheet, --report, --quality, --keep-checkpoint.
#pragma once
#include <CLI/CLI.hpp>

#include "prepare.h"

namespace sla2::cli {

class OutputFlags {
 public:
  /// `checkpoints`: the command keeps its state in a file.
  void add_to(CLI::App* app, bool checkpoints = true) {
    app->add_option("-o,--output", choice_.plan.outputs,
                    "Clip to write, by suffix: .mp4 .webm .gif, a folder or name%04d.png; repeatable")
        ->type_name("PATH")
        ->expected(1)
        ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
        ->group("Output");
    app->add_option("--sheet", choice_.plan.sheet, "Contact sheet: evenly spaced frames in one PNG")
        ->type_name("PATH")
        ->group("Output");
    app->add_option("--report", choice_.plan.report, "Run report as JSON: seconds, sparsity, memory, fallbacks")
        ->type_name("PATH")
        ->group("Output");
    app->add_option("--quality", choice_.plan.quality,
                    fmt::format("Quality of .mp4 and .webm: 0 best and largest … {} smallest [default {}]", kWorstQuality,
                                kDefaultQuality))
        ->check(CLI::Range(0, kWorstQuality).description(""))
        ->type_name("INT")
        ->group("Output");
    app->add_flag("--no-embedding-cache", choice_.no_embedding_cache, "Keep no encoded prompts on disk; encode them anew")
        ->group("Output");
    if (!checkpoints) return;
    app->add_flag("--keep-checkpoint", choice_.keep_checkpoint, "Keep OUT.sla2ckpt after success")->group("Output");
    app->add_flag("--no-checkpoint", choice_.no_checkpoint, "Write no checkpoint; a stopped run cannot be resumed")
        ->group("Output");
  }
  [[nodiscard]] const OutputChoice& choice() const noexcept { return choice_; }

 private:
  OutputChoice choice_;
};

}  // namespace sla2::cli
