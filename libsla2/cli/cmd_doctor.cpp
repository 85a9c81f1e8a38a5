// SPDX-License-Identifier: Apache-2.0
// sla2 doctor: what this machine can do, and what is missing.
#include <unistd.h>

#include <cstdio>
#include <string_view>
#include <utility>

#include "clip_metadata.h"
#include "commands.h"
#include "encoders.h"
#include "frame_sink.h"
#include "handles.h"
#include "json_events.h"
#include "locate.h"
#include "progress.h"
#include "reports.h"

namespace sla2::cli {

using nlohmann::json;

namespace {

std::string version_text(unsigned version) {
  return fmt::format("{}.{}.{}", AV_VERSION_MAJOR(version), AV_VERSION_MINOR(version), AV_VERSION_MICRO(version));
}

json encoder_report() {
  json encoders = json::array();
  for (const char* container : {"mp4", "webm"}) {
    bool chosen = false;
    for (const EncoderChoice& choice : encoder_list(container)) {
      std::string why;
      const bool works = encoder_works(choice, &why);
      encoders.push_back({{"container", container},
                          {"name", choice.name},
                          {"works", works},
                          {"used", works && !chosen},
                          {"enables", choice.enables},
                          {"reason", why}});
      chosen = chosen || works;
    }
  }
  const struct {
    const char* container;
    AVCodecID id;
    const char* enables;
  } pictures[] = {{"gif", AV_CODEC_ID_GIF, "GIF"}, {"png", AV_CODEC_ID_PNG, "PNG sequences and contact sheets"}};
  for (const auto& picture : pictures) {
    const bool works = avcodec_find_encoder(picture.id) != nullptr;
    encoders.push_back({{"container", picture.container},
                        {"name", avcodec_get_name(picture.id)},
                        {"works", works},
                        {"used", works},
                        {"enables", picture.enables},
                        {"reason", works ? "" : "not compiled into this FFmpeg"}});
  }
  return encoders;
}

json model_report() {
  json report{{"name", kShippedModel}, {"found", false}};
  try {
    const fs::path path = locate_model(kShippedModel, "");
    report["path"] = path.string();
    sla2_model* opened = nullptr;
    require(sla2_model_open(path.c_str(), nullptr, &opened));
    const Model model(opened);
    report["found"] = true;
  } catch (const CliError& error) {
    report["error"] = error.what();
  }
  return report;
}

json folder_report(const fs::path& folder) {
  const bool writable = ::access(folder.c_str(), W_OK | X_OK) == 0;
  std::error_code error;
  const fs::space_info space = fs::space(folder, error);
  return {{"path", folder.string()}, {"writable", writable}, {"free_bytes", error ? 0 : space.available}};
}

void line(bool good, const std::string& text) { std::puts(fmt::format("  {} {}", good ? "+" : "-", text).c_str()); }

/// What a library is there for.
std::string_view library_use(std::string_view name) {
  constexpr std::pair<std::string_view, std::string_view> kUses[] = {
      {"onednn", "products of Linears and text encoder, convolutions of the VAE"},
      {"sentencepiece", "prompts into tokens"},
      {"utf8proc", "prompts in one Unicode form"},
      {"libavformat", "clips written and read, settings kept in them"},
      {"libavcodec", "the encoders below"},
      {"libswscale", "RGB into an encoder's colours, and back"},
  };
  for (const auto& [library, use] : kUses)
    if (library == name) return use;
  return "";
}

/// Instructions of the CPU and what they are for; what SLA2_ISA made of them.
void print_cpu(const json& system) {
  line(true, fmt::format("instruction set {}, {} threads", system.value("isa", "?"), system.value("threads", 0)));
  const std::string complaint = system.value("isa_complaint", "");
  if (!complaint.empty()) line(false, complaint);
  for (const json& feature : system.value("cpu_features", json::array()))
    line(feature.value("present", false), fmt::format("{:<13} {}", feature.value("name", "?"), feature.value("enables", "")));
}

/// Each GPU, or what is missing for one.
void print_gpus(const json& cuda) {
  for (const json& gpu : cuda.value("gpus", json::array()))
    line(cuda.value("kernels_built", false),
         fmt::format("{}, compute capability {}.{}, {}", gpu.value("name", "?"), gpu.value("compute_capability", 0) / 10,
                     gpu.value("compute_capability", 0) % 10, bytes_text(gpu.value("memory_bytes", uint64_t{0}))));
  const std::string missing = cuda.value("missing", "");
  if (!missing.empty()) line(false, "CUDA: " + missing);
}

void print_report(const json& report) {
  const json& system = report["system"];
  std::puts(fmt::format("sla2 {} on {}", sla2_version(), system.value("cpu", "?")).c_str());
  print_cpu(system);
  line(true, fmt::format("memory: {} of {} available", bytes_text(system.value("memory_available_bytes", uint64_t{0})),
                         bytes_text(system.value("memory_total_bytes", uint64_t{0}))));
  print_gpus(system.value("cuda", json::object()));
  std::puts("Libraries");
  for (const auto& [name, version] : report["libraries"].items())
    line(true, fmt::format("{:<13} {:<9} {}", name, version.get<std::string>(), report["library_uses"].value(name, "")));
  std::puts("Encoders");
  for (const json& encoder : report["encoders"]) {
    line(encoder["works"].get<bool>(),
         fmt::format("{:<11} {}{}", encoder["name"].get<std::string>(), encoder["enables"].get<std::string>(),
                     encoder["used"].get<bool>()    ? " (used)"
                     : encoder["works"].get<bool>() ? ""
                                                    : ": " + encoder["reason"].get<std::string>()));
  }
  std::puts("Files");
  const size_t presets = report["presets"].size();
  line(presets > 0, presets > 0 ? fmt::format("{} presets", presets) : fmt::format("no presets found; set {}", kPresetVariable));
  for (const json& preset : report["presets"]) {
    if (!preset["valid"].get<bool>()) line(false, preset.value("error", ""));
  }
  const json& model = report["model"];
  line(model["found"].get<bool>(),
       fmt::format("model {}: {}", model["name"].get<std::string>(), model.value("error", model.value("path", ""))));
  for (const json& folder : report["folders"]) {
    line(folder["writable"].get<bool>(), fmt::format("{}: {}, {} free", folder["path"].get<std::string>(),
                                                     folder["writable"].get<bool>() ? "writable" : "cannot be written",
                                                     bytes_text(folder["free_bytes"].get<uint64_t>())));
  }
}

}  // namespace

json doctor_report() {
  json report;
  report["system"] = json::parse(text_of([](char* buffer, uint64_t capacity) { return sla2_system_info(buffer, capacity); }));
  report["libraries"] = report["system"].value("libraries", json::object());
  report["libraries"]["libavformat"] = version_text(avformat_version());
  report["libraries"]["libavcodec"] = version_text(avcodec_version());
  report["libraries"]["libswscale"] = version_text(swscale_version());
  for (const auto& [name, version] : report["libraries"].items()) report["library_uses"][name] = std::string(library_use(name));
  report["encoders"] = encoder_report();
  report["presets"] = list_presets();
  report["model"] = model_report();
  std::error_code error;
  const fs::path temporary = fs::temp_directory_path(error), here = fs::current_path(error);
  report["folders"] = json::array({folder_report(here)});
  if (temporary != here) report["folders"].push_back(folder_report(temporary));
  return report;
}

void add_doctor(CLI::App& app, Action& action) {
  const auto as_json = std::make_shared<bool>(false);
  CLI::App* command = app.add_subcommand("doctor", "Say what this machine can do and what is missing");
  command->add_flag("--json", *as_json, "As JSON");
  command->footer("Example:\n  sla2 doctor\n");
  command->callback([as_json, &action] {
    action = [as_json] {
      const json report = doctor_report();
      if (*as_json)
        std::puts(event_line(report).c_str());
      else
        print_report(report);
      return ExitCode::kOk;
    };
  });
}

}  // namespace sla2::cli
