// SPDX-License-Identifier: Apache-2.0
// The sla2 tool: a thin front end on the C door (include/sla2), with FFmpeg for the files it writes.
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <exception>

#include "av.h"
#include "commands.h"
#include "options.h"

namespace {

using sla2::cli::ExitCode;

constexpr const char* kExample =
    "Example:\n"
    "  sla2 generate --preset demo -p \"a red balloon rises over the sea at sunset\" -o balloon.mp4\n";

ExitCode run(int argc, char** argv) {
  CLI::App app("Turns a prompt into a video with Wan2.1 models on the CPU, sparse attention included.", "sla2");
  app.set_version_flag("--version", std::string("sla2 ") + sla2_version());
  app.require_subcommand(1);
  app.footer(std::string(kExample) + "\nExit codes:\n" + sla2::cli::exit_code_help());
  sla2::cli::Action action;
  for (const auto add : {sla2::cli::add_generate, sla2::cli::add_compare, sla2::cli::add_resume, sla2::cli::add_info,
                         sla2::cli::add_bench, sla2::cli::add_presets, sla2::cli::add_doctor, sla2::cli::add_serve}) {
    add(app, action);
  }
  if (argc == 1) {
    std::fputs(app.help().c_str(), stdout);
    return ExitCode::kUsage;
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error), ExitCode::kOk;  // --help, --version
    std::fprintf(stderr, "sla2: %s\n", sla2::cli::usage_message(app, error).c_str());
    return ExitCode::kUsage;
  }
  return action();
}

}  // namespace

int main(int argc, char** argv) {
  for (const int signal : {SIGPIPE, SIGXFSZ}) std::signal(signal, SIG_IGN);  // failed writes, not the end of a long run
  av_log_set_level(AV_LOG_QUIET);  // encoders talk much; what matters is in our own messages
  ::setenv("SVT_LOG", "1", 0);     // SVT-AV1 prints past libavcodec's log; 1: errors alone
  try {
    return static_cast<int>(run(argc, argv));
  } catch (const sla2::cli::CliError& error) {
    std::fprintf(stderr, "sla2: %s\n", error.what());
    return static_cast<int>(sla2::cli::exit_code_of(error.status()));
  } catch (const std::bad_alloc&) {
    std::fputs("sla2: out of memory; close other programs or make the clip smaller\n", stderr);
    return static_cast<int>(ExitCode::kMemory);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "sla2: internal error: %s; please report it\n", error.what());
    return static_cast<int>(ExitCode::kInternal);
  }
}
