// SPDX-License-Identifier: Apache-2.0
#include "clip_metadata.h"

#include <algorithm>
#include <array>
#include <string_view>

#include "av.h"
#include "errors.h"
#include "handles.h"
#include "locate.h"
#include "png.h"

namespace sla2::cli {

namespace {

using nlohmann::json;

constexpr int kMetadataVersion = 1;
constexpr const char* kFormatName = "sla2.clip";
constexpr uint64_t kLargestPicture = 256u << 20;  // bytes read in search of a PNG comment
// What a report tells about how the frames came about, beyond the settings.
constexpr std::array kReportKeys{"model", "lora",      "pack",   "sigmas", "prompt_cleaned", "negative_prompt_cleaned",
                                 "rng",   "attention", "machine"};
// Of those, what an uninterrupted run and a resumed one tell alike, with any number of threads.
constexpr std::array kAttentionKeys{"asked", "router", "forwards", "sparse_forwards", "achieved_sparsity"};
constexpr std::array kMachineKeys{"cpu", "isa", "precision"};

/// Changes no pixel, or belongs to one machine.
bool is_local(const sla2_param_info& info) {
  const std::string_view name = info.name;
  return (std::string_view(info.group) == "Run" && name != "nan_retry") || name == "weights_mode";
}

template <size_t kCount>
void keep_only(json& object, const char* key, const std::array<const char*, kCount>& wanted) {
  if (!object.contains(key) || !object[key].is_object()) return;
  json kept = json::object();
  for (const char* name : wanted)
    if (object[key].contains(name)) kept[name] = object[key][name];
  object[key] = kept;
}

struct InputClose {
  void operator()(AVFormatContext* context) const noexcept { avformat_close_input(&context); }
};
using AvInput = std::unique_ptr<AVFormatContext, InputClose>;

/// The values and, where none was set, the table's defaults: a clip must say everything by itself, since a later version may
/// have other defaults. The model's own defaults come with the report, which is merged on top.
Params with_defaults(const sla2_params* params) {
  Params complete = copy_params(params);
  for_each_param([&](const sla2_param_info& info) {
    const bool open = info.default_text[0] != '\0' && !is_local(info) && std::string_view(info.group) != "Model";
    if (open && !param_is_set(params, info.name)) require(sla2_params_set_text(complete.get(), info.name, info.default_text));
  });
  return complete;
}

/// Only the containers this tool writes: other demuxers have no business with the user's file.
AvInput open_media(const fs::path& path) {
  AVFormatContext* context = nullptr;
  AvOptions options;
  options.set("format_whitelist", "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,gif,png_pipe");
  options.set("protocol_whitelist", "file");
  const std::string url = "file:" + path.string();
  return AvInput(avformat_open_input(&context, url.c_str(), nullptr, options.address()) < 0 ? nullptr : context);
}

std::optional<json> as_metadata(std::string_view text) {
  json object = json::parse(text, nullptr, false);
  if (!object.is_object() || object.value("format", json()) != kFormatName || !object.contains("settings")) return std::nullopt;
  return object;
}

bool looks_like_json_or_weights(const fs::path& path) {
  const std::string suffix = path.extension().string();
  return suffix == ".json" || suffix == ".safetensors" || suffix == ".sla2ckpt" || fs::is_directory(path);
}

}  // namespace

json known_settings(const json& settings) {
  json known = json::object();
  for_each_param([&](const sla2_param_info& info) {
    if (settings.contains(info.name) && !settings.at(info.name).is_null() && !is_local(info))
      known[info.name] = settings.at(info.name);
  });
  return known;
}

std::string make_metadata(const sla2_params* params, const std::string& report) {
  json object{{"format", kFormatName}, {"version", kMetadataVersion}, {"library", sla2_version()}};
  json settings = json::parse(params_json(with_defaults(params).get()));
  const json told = json::parse(report, nullptr, false);
  if (told.is_object()) {
    if (told.contains("settings") && told["settings"].is_object()) settings.update(told["settings"]);
    for (const char* key : kReportKeys) {
      if (told.contains(key) && !told[key].is_null()) object["report"][key] = told[key];
    }
  }
  object["settings"] = known_settings(settings);
  // A clip travels: the shipped model is named, not located, and no path is told twice.
  if (object["settings"].contains("model"))
    object["settings"]["model"] = model_name(object["settings"]["model"].get<std::string>());
  if (object.contains("report")) {
    keep_only(object["report"], "attention", kAttentionKeys);
    keep_only(object["report"], "machine", kMachineKeys);
  }
  if (object.contains("report") && object["report"].contains("model")) object["report"]["model"].erase("path");
  if (object.contains("report") && object["report"].contains("pack")) object["report"]["pack"].erase("path");
  if (object.contains("report") && object["report"].contains("lora"))
    for (json& lora : object["report"]["lora"]) lora.erase("path");
  return object.dump(-1, ' ', true, json::error_handler_t::replace);
}

std::optional<json> read_metadata(const fs::path& path) {
  if (!fs::exists(path)) fail(SLA2_E_FILE_NOT_FOUND, "{} does not exist; check the path", path.string());
  if (looks_like_json_or_weights(path)) return std::nullopt;
  if (path.extension() == ".png") return as_metadata(png_comment(read_text(path, kLargestPicture)));
  const AvInput input = open_media(path);
  if (!input) return std::nullopt;
  const AVDictionaryEntry* comment = av_dict_get(input->metadata, "comment", nullptr, 0);  // keys match whatever their case
  return comment == nullptr ? std::nullopt : as_metadata(comment->value);
}

std::string media_summary(const fs::path& path) {
  if (looks_like_json_or_weights(path)) return {};
  const AvInput input = open_media(path);
  if (!input || avformat_find_stream_info(input.get(), nullptr) < 0) return {};
  for (unsigned i = 0; i < input->nb_streams; ++i) {
    const AVStream* stream = input->streams[i];
    if (stream->codecpar->codec_type != AVMEDIA_TYPE_VIDEO) continue;
    std::string text =
        fmt::format("{}, {}x{}", avcodec_get_name(stream->codecpar->codec_id), stream->codecpar->width, stream->codecpar->height);
    if (stream->avg_frame_rate.num > 0 && stream->avg_frame_rate.den > 0) {
      text += fmt::format(", {:g} frames per second", av_q2d(stream->avg_frame_rate));
    }
    if (input->duration > 0) text += fmt::format(", {:.2f} s", double(input->duration) / AV_TIME_BASE);
    return text;
  }
  return {};
}

}  // namespace sla2::cli
