// SPDX-License-Identifier: Apache-2.0
// Values of the group "Attention", typed and checked against each other; what the user should hear of them.
#include <algorithm>
#include <array>

#include "pipeline/settings.h"

namespace sla2::pipeline {

namespace {

using attention::Mode;

template <typename Enum, size_t kCount>
Enum word_of(const config::ParamSet& values, const char* name,
             const std::array<std::pair<std::string_view, Enum>, kCount>& words) {
  const std::string text = values.text(name);
  for (const auto& [word, value] : words)
    if (word == text) return value;
  fail(SLA2_E_INTERNAL, "parameter {} holds \"{}\", which this version does not know", name, text);
}

constexpr std::array<std::pair<std::string_view, attention::Order>, 3> kOrders{
    {{"raster", attention::Order::kRaster}, {"tiles", attention::Order::kTiles}, {"hilbert", attention::Order::kHilbert}}};
constexpr std::array<std::pair<std::string_view, attention::Rule>, 3> kRules{
    {{"topk", attention::Rule::kTopK}, {"cdf", attention::Rule::kCdf}, {"hybrid", attention::Rule::kHybrid}}};
constexpr std::array<std::pair<std::string_view, attention::Mix>, 4> kMixes{{{"head_affine_lse", attention::Mix::kHeadAffineLse},
                                                                             {"const", attention::Mix::kConst},
                                                                             {"head_scalar", attention::Mix::kHeadScalar},
                                                                             {"block", attention::Mix::kBlock}}};
constexpr std::array<std::pair<std::string_view, attention::Scope>, 2> kScopes{
    {{"complement", attention::Scope::kComplement}, {"global", attention::Scope::kGlobal}}};

/// A sparsity, and nobody says of which mode: sla2.
void imply_mode(const config::ParamSet& params, Settings& settings) {
  config::ParamSet& values = settings.values;
  if (values.is_set("attention") || !params.is_set("sparsity") || params.number("sparsity") == 0) return;
  const auto rules = parse_attention_schedule(values.text("attention_schedule"));
  if (std::any_of(rules.begin(), rules.end(), [](const AttentionRule& rule) { return rule.mode != Mode::kFull; })) return;
  values.set_text("attention", "sla2");
  settings.notes.push_back(fmt::format("attention = sla2, because sparsity = {} is given; say attention = full to have it full",
                                       params.text("sparsity")));
}

/// What a pack does not decide of sparse layers.
dit::LayerAttention own_of(const Settings& settings) {
  const config::ParamSet& values = settings.values;
  const auto& pack = settings.attention.pack;
  dit::LayerAttention own;
  own.rule = word_of(values, "rule", kRules);
  own.top_p = values.number("top_p");
  own.theta = values.number("theta");
  own.negligible = values.number("negligible");
  own.mix_scale = values.number("mix_scale");
  own.mix_bias = values.number("mix_bias");
  own.protect_first = static_cast<int32_t>(values.integer("protect_first"));
  own.protect_last = static_cast<int32_t>(values.integer("protect_last"));
  own.protect_near = static_cast<int32_t>(values.integer("protect_near"));
  own.probe = values.number("probe");
  if (pack != nullptr && !pack->in_weights) return own;  // its layers follow it, and others are plain
  own.router = router_of(values.text("router")).value();
  own.mix = word_of(values, "mix", kMixes);
  own.scope = word_of(values, "scope", kScopes);
  own.smooth_k = values.flag("smooth_k");
  SLA2_CHECK(
      own.mix == attention::Mix::kHeadAffineLse || own.mix == attention::Mix::kConst, SLA2_E_ARGUMENT,
      "mix = {} needs numbers that were learned: name a router pack that has them with pack, or set mix to head_affine_lse or "
      "const",
      values.text("mix"));
  return own;
}

/// Modes and routers that the attention room replaces by full below min_tokens (docs/numerics.md).
bool is_replaceable(const dit::LayerAttention& kind) {
  const bool by_mode = kind.mode == Mode::kSla2 || kind.mode == Mode::kSparseOnly || kind.mode == Mode::kPooled;
  return by_mode && kind.router != attention::Router::kVsa;
}

void tell_kinds(const std::vector<dit::LayerAttention>& kinds, Settings& settings) {
  const AttentionSettings& attention = settings.attention;
  const int64_t tokens = settings.grid.tokens();
  const auto is_sparse = [](const dit::LayerAttention& kind) { return kind.mode != Mode::kFull; };
  if (std::none_of(kinds.begin(), kinds.end(), is_sparse)) {
    settings.notes.emplace_back("attention is full everywhere: the dense steps, layers or rules asked for leave nothing else");
    return;
  }
  if (tokens < attention.min_tokens && std::any_of(kinds.begin(), kinds.end(), is_replaceable)) {
    settings.notes.push_back(fmt::format(
        "min_tokens = {}: this clip has {} tokens, so sla2, sparse_only and pooled run as full, which is faster there; "
        "min_tokens = 0 keeps them sparse",
        attention.min_tokens, tokens));
  }
  const auto is_vsa = [&](const auto& kind) { return is_sparse(kind) && kind.router == attention::Router::kVsa; };
  if (std::any_of(kinds.begin(), kinds.end(), is_vsa) && attention.token_order == attention::Order::kRaster)
    settings.notes.emplace_back("router = vsa is made for tiles of tokens; token_order = tiles makes its blocks compact");
}

/// Values that only sparse layers read, where there are none.
void tell_unused(const config::ParamSet& params, Settings& settings) {
  for (const char* name : {"router", "protect_first", "protect_last", "protect_near", "negligible", "probe", "token_order"})
    if (params.is_set(name) && params.text(name) != config::find_param(name).default_text)
      settings.notes.push_back(
          fmt::format("{} = {} has no effect: attention is full; give a sparsity, or attention = sla2", name, params.text(name)));
}

}  // namespace

void resolve_attention(const ModelParts& model, const config::ParamSet& params, Settings& settings) {
  imply_mode(params, settings);
  const config::ParamSet& values = settings.values;
  AttentionSettings& attention = settings.attention;
  attention.mode = mode_of(values.text("attention")).value();
  attention.bits = static_cast<int32_t>(values.integer("bits"));
  attention.token_order = word_of(values, "token_order", kOrders);
  attention.rules = parse_attention_schedule(values.text("attention_schedule"));
  attention.min_tokens = values.integer("min_tokens");
  attention.sparsity = values.number("sparsity");
  attention.block_q = static_cast<int32_t>(values.integer("block_q"));
  attention.block_k = static_cast<int32_t>(values.integer("block_k"));
  attention.steps_first = values.integer("dense_steps_first");
  attention.steps_last = values.integer("dense_steps_last");
  attention.layers_first = values.integer("dense_layers_first");
  attention.layers_last = values.integer("dense_layers_last");
  attention.own = own_of(settings);
  if (attention.pack != nullptr && attention.pack->in_weights) {  // the files do not tell these for certain: they may be set
    attention.router = attention.own.router;
    attention.scope = attention.own.scope;
    attention.smooth_k = attention.own.smooth_k;
  }
  const bool asked = attention.mode != Mode::kFull || !attention.rules.empty();
  if (!asked) return tell_unused(params, settings);
  tell_kinds(attention_kinds(attention, settings.steps(), model.dit_config.layers), settings);
}

}  // namespace sla2::pipeline
