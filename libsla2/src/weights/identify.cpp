// SPDX-License-Identifier: Apache-2.0
// identify(): headers in, a sentence for people and JSON for programs out. Reads no tensor data.
#include <algorithm>
#include <array>
#include <charconv>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <utility>

#include "weights/file_io.h"
#include "weights/foreign.h"
#include "weights/source_set.h"

namespace sla2::weights {
namespace {

using json = nlohmann::ordered_json;

constexpr int64_t kWanHeadDim = 128;  // every published Wan2.1 model
constexpr int64_t kUmt5Vocabulary = 256384;
constexpr int64_t kUmt5Width = 4096;  // UMT5-XXL
constexpr int64_t kT5Vocabulary = 32128;
constexpr size_t kMaxMetadataText = 4096;  // longer values (embedded configurations, training logs) are cut in the JSON

std::string_view kind_name(Kind kind) {
  constexpr std::array<std::string_view, 12> kNames{"unknown", "wan_dit",    "wan_vae", "umt5", "clip",  "lora",
                                                    "router",  "checkpoint", "latent",  "t5",   "taehv", "other"};
  return kNames[static_cast<size_t>(kind)];
}

std::string_view naming_name(Naming naming) {
  constexpr std::array<std::string_view, 5> kNames{"unknown", "original", "comfyui", "diffusers", "huggingface"};
  return kNames[static_cast<size_t>(naming)];
}

/// Facts gathered from names and shapes while the kind is being described.
struct Description {
  std::string what, fits, variant;
  json sizes = json::object();
  json more = json::object();  ///< entries of the JSON that only this kind has
};

int64_t extent(const SourceSet& set, std::string_view name, size_t axis) {
  const Entry* entry = set.find(name);
  return entry == nullptr || axis >= entry->info->shape.size() ? 0 : entry->info->shape[axis];
}

/// 1 + the largest N in names "<head>N.".
int64_t count_indexed(const SourceSet& set, std::string_view head) {
  int64_t count = 0;
  for (auto at = set.entries.lower_bound(head); at != set.entries.end() && at->first.starts_with(head); ++at) {
    int64_t index = 0;
    const char* text = at->first.data() + head.size();
    const char* end = at->first.data() + at->first.size();
    if (std::from_chars(text, end, index).ec == std::errc() && index >= 0) count = std::max(count, index + 1);
  }
  return count;
}

std::string billions(int64_t parameters) {
  const auto value = static_cast<double>(parameters);
  if (value >= 0.95e9) return fmt::format("{:.1f}B", value * 1e-9);
  if (value >= 0.95e6) return fmt::format("{:.1f}M", value * 1e-6);
  return fmt::format("{}", parameters);
}

/// Layers with SLA v1's projection of the linear branch.
int64_t count_projections(const SourceSet& set) {
  return std::count_if(set.entries.begin(), set.entries.end(), [](const auto& entry) {
    return entry.first.starts_with("blocks.") && entry.first.ends_with(".self_attn.proj_l.weight");
  });
}

Description describe_dit(const SourceSet& set) {
  const int64_t dim = extent(set, "head.modulation", 2);
  const int64_t ffn = extent(set, "blocks.0.ffn.0.weight", 0), text = extent(set, "text_embedding.0.weight", 1);
  const int64_t in = extent(set, "patch_embedding.weight", 1), out = extent(set, "head.head.weight", 0) / 4;
  const int64_t layers = count_indexed(set, "blocks.");
  const bool image = set.find("blocks.0.cross_attn.k_img.weight") != nullptr;
  Description d;
  d.variant = count_indexed(set, "vace_blocks.") > 0   ? "vace"
              : set.find("img_emb.emb_pos") != nullptr ? "flf2v"
              : image || in > out                      ? "i2v"
                                                       : "t2v";
  int64_t head_dim = dim % kWanHeadDim == 0 ? kWanHeadDim : 0;
  const auto config = json::parse(set.config_json, nullptr, false);
  if (config.is_object() && config.contains("attention_head_dim") && config["attention_head_dim"].is_number_integer()) {
    head_dim = config["attention_head_dim"].get<int64_t>();
  }
  d.sizes = {{"dim", dim},        {"layers", layers},    {"ffn_dim", ffn},      {"text_dim", text},
             {"in_channels", in}, {"out_channels", out}, {"head_dim", head_dim}};
  const bool b1_3 = dim == 1536 && layers == 30, b14 = dim == 5120 && layers == 40;
  const bool wan22 = dim == 3072 && in == 48;
  const std::string size = b1_3 ? "1.3B" : b14 ? "14B" : wan22 ? "2.2 5B" : "of its own size";
  const int64_t projections = count_projections(set);
  if (projections > 0) d.more["sla1_layers"] = projections;
  d.what = fmt::format(
      "Wan DiT {} {} ({} layers, width {}, text width {}){}", d.variant, size, layers, dim, text,
      projections > 0 ? fmt::format(" with SLA v1 projections in {} layers, used by --attention sla1", projections) : "");
  d.fits = fmt::format("a UMT5 encoder of width {}{} and a Wan-VAE with {} latent channels", text,
                       text == kUmt5Width ? " (UMT5-XXL)" : "", out);
  return d;
}

Description describe_vae(const SourceSet& set) {
  const int64_t z = extent(set, "conv2.weight", 0);
  const int64_t base = extent(set, "encoder.conv1.weight", 0), decoder_base = extent(set, "decoder.head.0.gamma", 0);
  Description d;
  const bool encoder = base > 0, decoder = decoder_base > 0;
  d.variant = encoder && decoder ? "full" : encoder ? "encoder" : "decoder";
  d.sizes = {{"z_dim", z}, {"base_dim", base}, {"decoder_base_dim", decoder_base}, {"latent_channels", z}};
  const bool wan22 = set.find("decoder.upsamples.0.upsamples.0.residual.0.gamma") != nullptr;
  d.what = fmt::format("{} ({} latent channels, base width {}{})", wan22 ? "Wan2.2 VAE" : "Wan-VAE", z,
                       encoder ? base : decoder_base, d.variant == "full" ? "" : ", " + d.variant + " only");
  d.fits = wan22 ? "the Wan2.2 5B DiT, which this version does not run" : fmt::format("a Wan2.1 DiT with {} latent channels", z);
  return d;
}

Description describe_t5(const SourceSet& set) {
  const int64_t rows = extent(set, "shared.weight", 0), width = extent(set, "shared.weight", 1);
  const int64_t ff = extent(set, "encoder.block.0.layer.1.DenseReluDense.wi_0.weight", 0);
  const int64_t layers = count_indexed(set, "encoder.block.");
  const bool decoder = count_indexed(set, "decoder.block.") > 0;
  const bool tokenizer = set.find("spiece_model") != nullptr;
  Description d;
  d.sizes = {{"vocabulary", rows}, {"d_model", width}, {"d_ff", ff}, {"layers", layers}, {"tokenizer_inside", tokenizer}};
  if (set.scheme.kind == Kind::kT5) {
    const bool xxl = width == kUmt5Width;
    d.variant = ff > 0 ? "v1.1" : "v1.0";
    d.what = fmt::format(
        "T5{} {} ({} layers, width {}, vocabulary {}): not the text encoder of Wan, which needs UMT5-XXL with "
        "vocabulary {}",
        xxl ? "-XXL" : "", d.variant, layers, width, rows, kUmt5Vocabulary);
    d.fits = rows == kT5Vocabulary ? "Flux, SD3 and similar models; no Wan model" : "no Wan model";
    return d;
  }
  const bool xxl = width == kUmt5Width && layers == 24;
  d.variant = xxl ? "xxl" : "other";
  d.what = fmt::format("UMT5{} encoder ({} layers, width {}, vocabulary {}){}{}", xxl ? "-XXL" : "", layers, width, rows,
                       decoder ? " with a decoder that is not used" : "", tokenizer ? ", tokenizer inside" : "");
  d.fits = fmt::format("a Wan DiT with text width {}{}", width, tokenizer ? "" : "; needs spiece.model beside it");
  return d;
}

Description describe_lora(const SourceSet& set) {
  int64_t pairs = 0, rank = 0, differences = 0;
  bool wan = false;
  for (const auto& [name, entry] : set.entries) {
    wan = wan || name.find("self_attn") != std::string::npos || name.find("cross_attn") != std::string::npos ||
          name.find(".attn1.") != std::string::npos || name.find(".attn2.") != std::string::npos;
    const LoraPart part = lora_name(name).part;
    if (part == LoraPart::kDiff || part == LoraPart::kBiasDiff) ++differences;
    if (part != LoraPart::kDown) continue;
    ++pairs;
    if (!entry.info->shape.empty()) rank = std::max(rank, entry.info->shape.front());
  }
  Description d;
  d.sizes = {{"pairs", pairs}, {"rank", rank}};
  if (differences > 0) d.sizes["differences"] = differences;
  const std::string content = pairs == 0 ? fmt::format("weight differences ({} tensors)", differences)
                              : differences == 0
                                  ? fmt::format("LoRA ({} pairs, rank {})", pairs, rank)
                                  : fmt::format("LoRA ({} pairs, rank {}, {} differences)", pairs, rank, differences);
  d.what = content + (wan ? " with the layer names of a Wan DiT" : "");
  d.fits = wan ? "a Wan DiT of its sizes: lora = FILE (--lora)" : "not a Wan DiT, by its layer names";
  return d;
}

/// Geometry, what it is for and what was measured; a pack that is damaged is refused here as it is when used.
Description describe_pack(const SourceSet& set) {
  const PackMetadata pack = parse_pack_metadata(set.files.front()->metadata(), set.path);
  const bool b1_3 = pack.layers == 30 && pack.heads == 12, b14 = pack.layers == 40 && pack.heads == 40;
  constexpr std::array<std::string_view, 3> kStages{"fitted in closed form", "router trained", "model trained with it"};
  Description d;
  d.sizes = {{"layers", pack.layers},
             {"heads", pack.heads},
             {"head_dim", pack.head_dim},
             {"block_q", pack.block_q},
             {"block_k", pack.block_k}};
  d.more = {{"mode", pack.mode},
            {"router", pack.router},
            {"kappa", pack.kappa},
            {"bits", pack.bits},
            {"stage", pack.stage},
            {"alpha_mode", pack.alpha_mode},
            {"linear_scope", pack.linear_scope},
            {"smooth_k", pack.smooth_k},
            {"token_order", pack.token_order},
            {"grid", pack.tokens() > 0 ? fmt::format("{}", fmt::join(pack.grid, "x")) : ""},
            {"schedule", pack.schedule},
            {"requires", pack.needs},
            {"errors", json::parse(pack.errors.empty() ? "{}" : pack.errors, nullptr, false)},
            {"digest", file_sha256(set.files.front()->path())}};
  d.variant = pack.mode;
  d.what =
      fmt::format("sla2 router pack (mode {}, kappa {}, stage {}: {}, blocks {} x {})", pack.mode, fmt::join(pack.kappa, ","),
                  pack.stage, kStages[static_cast<size_t>(pack.stage)], pack.block_q, pack.block_k);
  d.fits = fmt::format("{}{}a DiT of {} layers and {} heads of {}{}", pack.base, pack.base.empty() ? "" : ", ", pack.layers,
                       pack.heads, pack.head_dim,
                       b1_3  ? " (as Wan 1.3B)"
                       : b14 ? " (as Wan 14B)"
                             : "");
  return d;
}

Description describe(const SourceSet& set, Kind kind) {
  switch (kind) {
    case Kind::kWanDit: return describe_dit(set);
    case Kind::kWanVae: return describe_vae(set);
    case Kind::kUmt5:
    case Kind::kT5: return describe_t5(set);
    case Kind::kLora: return describe_lora(set);
    case Kind::kClip:
      return {"CLIP encoder", "image-to-video models, which this version does not run", "", json::object(), json::object()};
    case Kind::kTaehv:
      return {"TAEHV preview decoder", "nothing in this version: its previews come from the latent alone", "", json::object(),
              json::object()};
    case Kind::kRouterPack: return describe_pack(set);
    case Kind::kCheckpoint: return {"sla2 job checkpoint", "`sla2 resume` continues it", "", json::object(), json::object()};
    case Kind::kLatent:
      return {"sla2 latent video", "the Wan-VAE named in its settings decodes it", "", json::object(), json::object()};
    default: break;
  }
  return {"safetensors file of an unknown model", "nothing this version knows", "", json::object(), json::object()};
}

/// Files that sla2 itself writes say so in their metadata.
Kind own_kind(const std::string& format) {
  if (format == "sla2.checkpoint") return Kind::kCheckpoint;
  if (format == "sla2.latent") return Kind::kLatent;
  if (format == kPackFormat) return Kind::kRouterPack;
  return Kind::kUnknown;
}

struct Storage {
  int64_t tensors = 0, elements = 0;
};

json storage_json(const std::map<std::string, Storage>& storage) {
  json all = json::object();
  for (const auto& [name, use] : storage) all[name] = {{"tensors", use.tensors}, {"elements", use.elements}};
  return all;
}

/// "bf16", or "fp8_e4m3 and bf16" with the larger share first.
std::string storage_text(const std::map<std::string, Storage>& storage) {
  std::vector<std::pair<int64_t, std::string>> order;
  order.reserve(storage.size());
  for (const auto& [name, use] : storage) order.emplace_back(-use.elements, name);
  std::sort(order.begin(), order.end());
  std::vector<std::string> names;
  names.reserve(order.size());
  for (const auto& [ignored, name] : order) names.push_back(name);
  return fmt::format("{}", fmt::join(names, " and "));
}

json metadata_json(const SourceSet& set) {
  json all = json::object();
  for (const auto& file : set.files) {
    for (const auto& [key, value] : file->metadata()) {
      if (all.contains(key)) continue;
      all[key] = value.size() <= kMaxMetadataText ? value : fmt::format("({} bytes)", value.size());
    }
  }
  return all;
}

std::string dump(const json& value) { return value.dump(-1, ' ', false, json::error_handler_t::replace); }

Identity plain_identity(const std::string& path, Kind kind, const std::string& summary, const std::string& fits) {
  Identity identity{kind, Naming::kUnknown, summary, fits, "", ""};
  identity.json = dump({{"path", path}, {"kind", kind_name(kind)}, {"summary", summary}, {"fits", fits}});
  return identity;
}

}  // namespace

Identity identify(const SourceSet& set) {
  const Kind own = own_kind(set.metadata("format"));
  const Kind kind = own != Kind::kUnknown ? own : set.scheme.kind;
  const Description d = describe(set, kind);
  std::map<std::string, Storage> storage;
  int64_t parameters = 0;
  for (const auto& [name, entry] : set.entries) {
    if (entry.info->dtype == DType::kU8 && name == "spiece_model") continue;
    Storage& use = storage[std::string(dtype_name(entry.info->dtype))];
    ++use.tensors;
    use.elements += entry.info->element_count();
    parameters += entry.info->element_count();
  }
  uint64_t bytes = 0;
  json files = json::array();
  for (const auto& file : set.files) {
    bytes += file->file_bytes();
    files.push_back(file->path());
  }
  Identity identity;
  identity.kind = kind;
  identity.naming = own == Kind::kUnknown ? set.scheme.naming : Naming::kUnknown;
  identity.variant = d.variant;
  identity.fits = d.fits;
  identity.summary = fmt::format("{}, {} parameters in {}{}, {}", d.what, billions(parameters), storage_text(storage),
                                 set.scaled ? " with scales" : "", size_text(bytes));
  json all = {{"path", set.path},
              {"kind", kind_name(kind)},
              {"variant", d.variant},
              {"naming", naming_name(identity.naming)},
              {"summary", identity.summary},
              {"fits", d.fits},
              {"sizes", d.sizes},
              {"parameters", parameters},
              {"tensors", set.entries.size()},
              {"storage", storage_json(storage)},
              {"scaled", set.scaled},
              {"bytes", bytes},
              {"files", files},
              {"config", !set.config_json.empty()},
              {"metadata", metadata_json(set)}};
  all.update(d.more);
  identity.json = dump(all);
  return identity;
}

Identity identify(const std::string& path) {
  const std::vector<std::string> parts = pipeline_parts(path);
  if (!parts.empty()) {
    return plain_identity(path, Kind::kOther, fmt::format("diffusers pipeline folder with {}", fmt::join(parts, ", ")),
                          "give the folder, or its parts one by one");
  }
  std::error_code ignored;
  const std::filesystem::path file(path);
  if (!std::filesystem::is_directory(file, ignored) && file.extension() != ".json") {
    const InputFile probe(path);
    std::array<std::byte, kForeignProbeBytes> head{};
    const auto probed = std::span(head).first(static_cast<size_t>(std::min<uint64_t>(head.size(), probe.size())));
    probe.read(0, probed);
    const std::string foreign = describe_foreign(probed, probe.size());
    if (foreign == kTokenizerText)
      return plain_identity(path, Kind::kOther, foreign,
                            "the UMT5 encoder it came with: keep it beside that, or name it with tokenizer");
    if (!foreign.empty()) return plain_identity(path, Kind::kOther, foreign, "nothing this version knows");
  }
  return identify(open_sources(path));
}

}  // namespace sla2::weights
