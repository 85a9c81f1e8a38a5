// SPDX-License-Identifier: Apache-2.0
#include "pipeline/loras.h"

#include <algorithm>
#include <filesystem>

namespace sla2::pipeline {

void open_loras(const ModelParts& model, Settings& settings) {
  std::vector<weights::LoraSource> sources = weights::parse_lora_list(settings.values.text("lora"));
  for (weights::LoraSource& source : sources) {
    source.path = std::filesystem::absolute(std::filesystem::u8path(source.path)).lexically_normal().string();
    weights::LoraFile lora = weights::open_lora(source, *model.dit);
    if (!lora.unused.empty())
      settings.notes.push_back(
          fmt::format("LoRA {}: {} of its tensors are for layers that {} lacks and are not used, the first '{}'", source.path,
                      lora.unused.size(), model.dit->path(), lora.unused.front()));
    settings.loras.push_back(std::move(lora));
  }
  if (!sources.empty()) settings.values.set_text("lora", weights::lora_list_text(sources));  // resumed from any folder
}

std::string lora_digest(const Settings& settings) {
  std::string text;
  for (const weights::LoraFile& lora : settings.loras)
    text += fmt::format("{}{}@{}", text.empty() ? "" : " ", lora.digest, lora.source.strength);
  return text;
}

void check_same_loras(const std::string& before, const Settings& settings, const std::string& checkpoint) {
  const std::string now = lora_digest(settings);
  const auto said = [](const std::string& text) { return text.empty() ? std::string("none") : text; };
  SLA2_CHECK(before == now, SLA2_E_MODEL_MISMATCH,
             "resume: {} was begun with other LoRAs: expected digest@strength {}, got {}. Put the files back, or name where they "
             "are now "
             "with the parameter lora (`sla2 resume --lora FILE`)",
             checkpoint, said(before), said(now));
}

nlohmann::ordered_json lora_report(const Settings& settings) {
  using nlohmann::ordered_json;
  if (settings.loras.empty()) return nullptr;
  ordered_json list = ordered_json::array();
  for (const weights::LoraFile& lora : settings.loras) {
    int64_t rank = 0;
    for (const auto& [name, change] : lora.changes) rank = std::max(rank, change.rank);
    list.push_back({{"name", std::filesystem::path(lora.source.path).filename().string()},
                    {"path", lora.source.path},
                    {"digest", lora.digest},
                    {"strength", lora.source.strength},
                    {"rank", rank},
                    {"tensors_changed", lora.changes.size()},
                    {"tensors_unused", lora.unused.size()}});
  }
  return list;
}

}  // namespace sla2::pipeline
