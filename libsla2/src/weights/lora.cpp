// SPDX-License-Identifier: Apache-2.0
#include "weights/lora.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <optional>

#include "weights/convert.h"
#include "weights/names.h"
#include "weights/weights.h"

namespace sla2::weights {
namespace {

struct Relative {
  std::string_view mark, name;
};
constexpr std::array<Relative, 3> kRelatives{{{"dora_scale", "DoRA"}, {"lokr_w", "LoKr"}, {"hada_w", "LoHa"}}};
constexpr std::array<std::string_view, 2> kKohyaPrefixes{"lora_unet_", "lora_transformer_"};

std::string_view trimmed(std::string_view text) {
  constexpr std::string_view kBlank = " \t\n";
  const size_t first = text.find_first_not_of(kBlank);
  return first == std::string_view::npos ? std::string_view() : text.substr(first, text.find_last_not_of(kBlank) - first + 1);
}

std::optional<double> number(std::string_view text) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size() && !text.empty() ? std::optional(value) : std::nullopt;
}

/// Where a module of a LoRA file is in the base; the base's own names decide, whatever naming the file has.
class Modules {
 public:
  explicit Modules(const Checkpoint& base) : base_(base) {
    for (const std::string& name : base.names()) {
      std::string flat(name.ends_with(kWeight) ? name.substr(0, name.size() - kWeight.size()) : name);
      std::replace(flat.begin(), flat.end(), '.', '_');
      underscored_.emplace(std::move(flat), name);
    }
  }
  /// Canonical name of the module's weight (`bias`: of its bias), "" where the base has none.
  [[nodiscard]] std::string find(std::string_view module, bool bias) const {
    for (const std::string_view prefix : known_prefixes()) {
      if (!module.starts_with(prefix)) continue;
      const std::string rest(module.substr(prefix.size()));
      for (const Naming naming : {Naming::kOriginal, Naming::kDiffusers}) {
        const NameScheme scheme{Kind::kWanDit, naming, "", 0};
        for (const std::string& tail : {std::string(bias ? ".bias" : kWeight), std::string()})
          if (std::string name = canonical_name(rest + tail, scheme); base_.has(name)) return name;
      }
    }
    for (const std::string_view prefix : kKohyaPrefixes) {
      if (!module.starts_with(prefix)) continue;
      const auto found = underscored_.find(module.substr(prefix.size()));
      if (found == underscored_.end() || bias) continue;
      return found->second;
    }
    return {};
  }

 private:
  static constexpr std::string_view kWeight = ".weight";
  const Checkpoint& base_;
  std::map<std::string, std::string, std::less<>> underscored_;
};

void refuse_relatives(const SafetensorsFile& file) {
  for (const TensorInfo& tensor : file.tensors())
    for (const Relative& relative : kRelatives)
      SLA2_CHECK(
          tensor.name.find(relative.mark) == std::string::npos, SLA2_E_UNSUPPORTED,
          "{}: a {} file (tensor '{}'); expected a LoRA (lora_A/lora_B, lora_down/lora_up) or differences (.diff). Merge it "
          "into the model with the tool that made it, and use the merged model",
          file.path(), relative.name, tensor.name);
}

/// Every change has the shape of what it changes, and both factors.
void check_change(const LoraFile& lora, const std::string& name, const TensorInfo& target, LoraChange& change) {
  const std::string& path = lora.source.path;
  SLA2_CHECK(
      (change.down == nullptr) == (change.up == nullptr), SLA2_E_FILE_FORMAT,
      "{}: '{}' has one of the two LoRA factors; expected lora_A and lora_B (or down and up). The file is incomplete; fetch it "
      "again",
      path, name);
  const int64_t count = target.element_count(), out = target.shape.empty() ? 1 : target.shape.front();
  constexpr const char* kRemedy = "it was made for another size or kind of Wan model; use one made for this model";
  if (change.diff != nullptr)
    SLA2_CHECK(change.diff->element_count() == count, SLA2_E_MODEL_MISMATCH, "{}: '{}': expected shape [{}], got [{}]: {}", path,
               change.diff->name, fmt::join(target.shape, ", "), fmt::join(change.diff->shape, ", "), kRemedy);
  if (change.down == nullptr) return;
  change.rank = change.down->shape.empty() ? 0 : change.down->shape.front();
  const int64_t in = out == 0 ? 0 : count / out;
  SLA2_CHECK(change.rank > 0 && change.down->element_count() == change.rank * in && !change.up->shape.empty() &&
                 change.up->shape.front() == out && change.up->element_count() == out * change.rank,
             SLA2_E_MODEL_MISMATCH, "{}: '{}': expected factors [{}, r] and [r, {}], got [{}] and [{}]: {}", path, name, out, in,
             fmt::join(change.up->shape, ", "), fmt::join(change.down->shape, ", "), kRemedy);
}

}  // namespace

std::vector<LoraSource> parse_lora_list(std::string_view text) {
  std::vector<LoraSource> sources;
  while (!trimmed(text).empty()) {
    const size_t end = std::min(text.find(';'), text.size());
    const std::string_view one = trimmed(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
    LoraSource source{std::string(one), 1};
    if (const size_t at = one.rfind('@'); at != std::string_view::npos) {
      if (const auto strength = number(trimmed(one.substr(at + 1))))
        source = {std::string(trimmed(one.substr(0, at))), *strength};
    }
    SLA2_CHECK(!source.path.empty() && std::isfinite(source.strength), SLA2_E_ARGUMENT,
               "lora: \"{}\" is no file with an optional strength; expected FILE or FILE@0.8, several separated by semicolons",
               one);
    sources.push_back(std::move(source));
  }
  return sources;
}

std::string lora_list_text(const std::vector<LoraSource>& sources) {
  std::string text;
  for (const LoraSource& source : sources)
    text +=
        (text.empty() ? "" : "; ") + (source.strength == 1 ? source.path : fmt::format("{}@{}", source.path, source.strength));
  return text;
}

LoraFile open_lora(const LoraSource& source, const Checkpoint& base) {
  LoraFile lora{source, file_sha256(source.path), SafetensorsFile::open(source.path), {}, {}};
  refuse_relatives(*lora.file);
  const Modules modules(base);
  std::map<std::string, double> alphas;
  for (const TensorInfo& tensor : lora.file->tensors()) {
    const auto [kind, module] = lora_name(tensor.name);
    const std::string name = kind == LoraPart::kNone ? std::string() : modules.find(module, kind == LoraPart::kBiasDiff);
    if (name.empty()) {
      lora.unused.push_back(tensor.name);
      continue;
    }
    if (kind == LoraPart::kAlpha) {
      SLA2_CHECK(tensor.element_count() == 1, SLA2_E_FILE_FORMAT, "{}: '{}' has {} numbers, expected one", source.path,
                 tensor.name, tensor.element_count());
      alphas[name] = read_lora(lora, tensor).front();
      continue;
    }
    LoraChange& change = lora.changes[name];
    const TensorInfo*& part = kind == LoraPart::kDown ? change.down : kind == LoraPart::kUp ? change.up : change.diff;
    SLA2_CHECK(part == nullptr, SLA2_E_FILE_FORMAT, "{}: '{}' and '{}' are the same part of {}; the file is damaged", source.path,
               part->name, tensor.name, name);
    part = &tensor;
  }
  SLA2_CHECK(!lora.changes.empty(), SLA2_E_MODEL_MISMATCH,
             "{}: none of its {} tensors belongs to a layer of {}{}; use a LoRA made for this model", source.path,
             lora.unused.size(), base.path(),
             lora.unused.empty() ? "" : fmt::format(" (the first is '{}')", lora.unused.front()));
  for (auto& [name, change] : lora.changes) {
    check_change(lora, name, base.info(name), change);
    const auto alpha = alphas.find(name);
    change.scale = source.strength;
    if (alpha != alphas.end() && change.rank > 0) change.scale *= alpha->second / static_cast<double>(change.rank);
  }
  return lora;
}

std::vector<float> read_lora(const LoraFile& lora, const TensorInfo& tensor) {
  std::vector<std::byte> stored(tensor.end - tensor.begin);
  lora.file->read_bytes(tensor, 0, stored);
  std::vector<float> values(static_cast<size_t>(tensor.element_count()));
  to_f32(tensor.dtype, stored.data(), values.data(), values.size());
  const bool finite = std::all_of(values.begin(), values.end(), [](float value) { return std::isfinite(value); });
  SLA2_CHECK(finite, SLA2_E_FILE_FORMAT, "{}: '{}' holds NaN or infinity; the file is damaged", lora.source.path, tensor.name);
  return values;
}

}  // namespace sla2::weights
