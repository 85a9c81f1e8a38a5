// SPDX-License-Identifier: Apache-2.0
#include "pipeline/router_pack.h"

#include <algorithm>
#include <cmath>
#include <filesystem>

namespace sla2::pipeline {
namespace {

using weights::PackMetadata;
using weights::RouterPack;

constexpr double kSameKappa = 1e-9;

attention::Mix mix_of(const std::string& word) {
  if (word == "const") return attention::Mix::kConst;
  if (word == "head_scalar") return attention::Mix::kHeadScalar;
  return word == "block" ? attention::Mix::kBlock : attention::Mix::kHeadAffineLse;
}

void hold(std::shared_ptr<const RouterPack> pack, AttentionSettings& attention) {
  const PackMetadata& m = pack->metadata;
  attention.pack_mode = mode_of(m.mode).value();
  attention.router = router_of(m.router).value();
  attention.mix = mix_of(m.alpha_mode);
  attention.scope = m.linear_scope == "global" ? attention::Scope::kGlobal : attention::Scope::kComplement;
  attention.smooth_k = m.smooth_k;

  attention.pack = std::move(pack);
}

void warn(Settings& settings, std::string what) {
  settings.pack_warnings.push_back(what);
  settings.notes.push_back(std::move(what));
}

void check_model(const RouterPack& pack, const ModelParts& model, Settings& settings) {
  const PackMetadata& m = pack.metadata;
  const config::DitConfig& c = model.dit_config;
  const std::string base = m.base.empty() ? std::string("another model") : m.base;
  SLA2_CHECK(
      m.layers == c.layers && m.heads == c.heads && m.head_dim == c.head_dim, SLA2_E_MODEL_MISMATCH,
      "router pack {} does not fit the model {}: it is made for {} layers, {} heads of {} ({}); the model has {} layers, {} "
      "heads of {}. Use a pack made for this model, or make one with sla2-calibrate",
      pack.path, model.dit->path(), m.layers, m.heads, m.head_dim, base, c.layers, c.heads, c.head_dim);
  const std::string shapes = weights::pack_base_shapes(*model.dit, c.layers);
  SLA2_CHECK(
      shapes == m.base_shapes, SLA2_E_MODEL_MISMATCH,
      "router pack {} does not fit the model {}: expected weights of shapes {} ({}), got {}. Use a pack made for this model, or "
      "make one with sla2-calibrate",
      pack.path, model.dit->path(), m.base_shapes, base, shapes);
  if (!m.base_weights.empty() && weights::pack_base_weights(*model.dit) != m.base_weights) {
    constexpr int32_t kTrainedTogether = 2;
    warn(settings,
         m.stage == kTrainedTogether
             ? fmt::format("WARNING: router pack {} belongs to weights that were trained with it, and {} holds others: expect "
                           "worse clips; use the weights it was made with ({})",
                           pack.path, model.dit->path(), base)
             : fmt::format("router pack {} was made on other weights than {} ({}): fine for a fine-tune of the same model",
                           pack.path, model.dit->path(), base));
  }
  const auto is_needed = [&](const weights::LoraFile& lora) { return lora.digest == m.needs; };
  if (!m.needs.empty() && std::none_of(settings.loras.begin(), settings.loras.end(), is_needed))
    warn(settings,
         fmt::format("router pack {} requires the LoRA or weights with SHA-256 {}, which lora does not name; whether {} holds "
                     "them is not checked",
                     pack.path, m.needs, model.dit->path()));
}

void check_grid(const RouterPack& pack, const Settings& settings) {
  const PackMetadata& m = pack.metadata;
  if (m.mode != "sla2" || m.alpha_mode != "block") return;
  const latent::Grid& grid = settings.grid;
  constexpr int64_t kFramesPerLatent = 4, kPixelsPerToken = 16;
  SLA2_CHECK(
      m.grid[0] == grid.frames && m.grid[1] == grid.height && m.grid[2] == grid.width, SLA2_E_MODEL_MISMATCH,
      "router pack {} has mixing numbers per query block of {} tokens; this clip has {}x{}x{}. Set frames = {}, height = {}, "
      "width = {}",
      pack.path, fmt::join(m.grid, "x"), grid.frames, grid.height, grid.width, (m.grid[0] - 1) * kFramesPerLatent + 1,
      m.grid[1] * kPixelsPerToken, m.grid[2] * kPixelsPerToken);
}

[[noreturn]] void contradiction(const RouterPack& pack, std::string_view name, std::string_view given, std::string_view decided) {
  fail(SLA2_E_ARGUMENT,
       "{} = {} contradicts the router pack {}, which was made for {}; leave {} out or set it so, or leave out the pack", name,
       given, pack.path, decided, name);
}

bool uses(const std::vector<AttentionRule>& rules, attention::Mode mode) {
  return std::any_of(rules.begin(), rules.end(), [&](const AttentionRule& rule) { return rule.mode == mode; });
}

/// The user's own rules say which layers and steps are full, and how sparse the others are; the pack's may say more.
void check_rules(const RouterPack& pack, const std::vector<AttentionRule>& rules) {
  for (const AttentionRule& rule : rules)
    if (rule.mode != attention::Mode::kFull && mode_word(rule.mode) != pack.metadata.mode)
      contradiction(pack, "attention_schedule", fmt::format("…{}…", mode_word(rule.mode)), pack.metadata.mode + " (or full)");
  for (const AttentionRule& rule : rules)
    if (rule.router && router_word(*rule.router) != pack.metadata.router)
      contradiction(pack, "attention_schedule", fmt::format("…router={}…", router_word(*rule.router)),
                    "router " + pack.metadata.router);
}

std::vector<AttentionRule> rules_of_pack(const RouterPack& pack) {
  try {
    return parse_attention_schedule(pack.metadata.schedule);
  } catch (const Error& error) {
    fail(SLA2_E_FILE_FORMAT, "{}: router pack: the metadata \"schedule\": {}", pack.path, error.what());
  }
}

/// Settings that a pack decides: refused where the user says something else, else written where the report and a resumed run
/// find them.
void decide(const RouterPack& pack, const config::ParamSet& params, Settings& settings) {
  const PackMetadata& m = pack.metadata;
  config::ParamSet& values = settings.values;
  const auto given = [&](const char* name) { return params.is_set(name); };
  static_cast<void>(rules_of_pack(pack));
  if (!given("attention_schedule")) {
    values.set_text("attention_schedule", m.schedule);
  } else if (params.text("attention_schedule") != m.schedule) {
    check_rules(pack, parse_attention_schedule(params.text("attention_schedule")));
  }
  const bool by_rules =
      params.text("attention") == "full" && uses(parse_attention_schedule(values.text("attention_schedule")), *mode_of(m.mode));
  if (!given("attention")) {
    values.set_text("attention", m.mode);
  } else if (params.text("attention") != m.mode && !by_rules) {
    contradiction(pack, "attention", params.text("attention"), m.mode);
  }
  const auto fixed = [&](const char* name, const std::string& decided) {
    if (given(name) && params.text(name) != decided) contradiction(pack, name, params.text(name), decided);
    values.set_text(name, decided);
  };
  fixed("block_q", std::to_string(m.block_q));
  fixed("block_k", std::to_string(m.block_k));
  fixed("token_order", m.token_order);
  fixed("router", m.router);
  fixed("mix", m.alpha_mode);
  fixed("scope", m.linear_scope);
  fixed("smooth_k", m.smooth_k ? "true" : "false");
  constexpr double kDigits = 1e12;  // 1 - 0.07 without its last bits
  if (!given("sparsity")) values.set_text("sparsity", config::number_text(std::round((1 - m.kappa.front()) * kDigits) / kDigits));
  if (!given("bits")) values.set_text("bits", std::to_string(m.bits));
}

/// SLA v1 projections among the weights: theirs is mode sla1, where the user asks for it. The files do not tell their blocks,
/// router, scope and smoothing, so those may be set.
void apply_weights(const ModelParts& model, Settings& settings) {
  if (!weights::has_sla1_weights(*model.dit)) return;
  const config::DitConfig& c = model.dit_config;
  const bool asked = settings.values.text("attention") == "sla1" ||
                     uses(parse_attention_schedule(settings.values.text("attention_schedule")), attention::Mode::kSla1);
  if (!asked) {
    settings.notes.push_back(
        fmt::format("{} holds SLA v1 projections that are not used; attention = sla1 uses them", model.dit->path()));
    return;
  }
  hold(std::make_shared<RouterPack>(weights::sla1_weights(*model.dit, c.layers, c.heads, c.head_dim)), settings.attention);
  const PackMetadata& m = settings.attention.pack->metadata;
  const auto settle = [&](const char* name, const std::string& usual) {
    if (!settings.values.is_set(name)) settings.values.set_text(name, usual);
  };
  settle("router", m.router);
  settle("scope", m.linear_scope);
  settle("smooth_k", m.smooth_k ? "true" : "false");
}

/// Sparsities at which layers read the pack, each once.
std::vector<double> sparsities(const ModelParts& model, const Settings& settings) {
  std::vector<double> found;
  for (const dit::LayerAttention& kind : attention_kinds(settings.attention, settings.steps(), model.dit_config.layers))
    if (kind.mode == settings.attention.pack_mode && std::find(found.begin(), found.end(), kind.sparsity) == found.end())
      found.push_back(kind.sparsity);
  return found;
}

}  // namespace

void apply_pack(const ModelParts& model, const config::ParamSet& params, Settings& settings) {
  const std::string path = settings.values.text("pack");
  if (path.empty()) return apply_weights(model, settings);
  auto pack = std::make_shared<RouterPack>(weights::read_router_pack(path));
  check_model(*pack, model, settings);
  check_grid(*pack, settings);
  decide(*pack, params, settings);
  hold(std::move(pack), settings.attention);
}

void tell_kappas(const ModelParts& model, Settings& settings) {
  const auto& pack = settings.attention.pack;
  if (pack == nullptr || pack->in_weights) return;
  for (const double sparsity : sparsities(model, settings)) {
    const double kappa = pack->metadata.kappa[pack->metadata.nearest_kappa(sparsity)];
    if (std::abs(kappa - (1 - sparsity)) > kSameKappa)
      warn(settings, fmt::format("router pack {} has nothing for kappa {:.4g} (sparsity {:.4g}); that for kappa {:.4g} is used",
                                 pack->path, 1 - sparsity, sparsity, kappa));
  }
}

nlohmann::ordered_json pack_report(const ModelParts& model, const Settings& settings) {
  using nlohmann::ordered_json;
  const auto& pack = settings.attention.pack;
  if (pack == nullptr) return nullptr;
  const PackMetadata& m = pack->metadata;
  const std::string file = std::filesystem::path(pack->path).filename().string();
  ordered_json kappas = ordered_json::array();
  for (const double sparsity : sparsities(model, settings))
    kappas.push_back({{"sparsity", sparsity},
                      {"kappa", m.kappa.empty() ? ordered_json(nullptr) : ordered_json(m.kappa[m.nearest_kappa(sparsity)])}});
  return {{"name", pack->in_weights ? "SLA v1 projections of " + file : file},
          {"path", pack->path},
          {"digest", pack->digest},
          {"stage", pack->in_weights ? ordered_json(nullptr) : ordered_json(m.stage)},
          {"mode", m.mode},
          {"router", m.router},
          {"alpha_mode", m.alpha_mode},
          {"linear_scope", m.linear_scope},
          {"smooth_k", m.smooth_k},
          {"kappa", m.kappa},
          {"kappa_used", kappas},
          {"learned_layers", pack->learned_layers()},
          {"base", m.base},
          {"requires", m.needs},
          {"errors", m.errors.empty() ? ordered_json(nullptr) : ordered_json::parse(m.errors, nullptr, false)},
          {"warnings", settings.pack_warnings}};
}

}  // namespace sla2::pipeline
