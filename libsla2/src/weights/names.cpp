// SPDX-License-Identifier: Apache-2.0
// Names of the DiT follow Wan2.1 wan/modules/model.py, of the VAE wan/modules/vae.py, of UMT5 transformers; the diffusers
// side follows transformer_wan.py and autoencoder_kl_wan.py (tests/python/test_weights.py compares with their converters).
#include "weights/names.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <optional>
#include <span>
#include <utility>

namespace sla2::weights {
namespace {

using Pair = std::pair<std::string_view, std::string_view>;

// Wrappers that training frameworks leave inside names.
constexpr std::array<std::string_view, 3> kInfixes{"_checkpoint_wrapped_module.", "_fsdp_wrapped_module.", "_orig_mod."};

// Tried in this order; "" first, so that a name that already fits is left alone.
constexpr std::array<std::string_view, 12> kPrefixes{"",
                                                     "model.diffusion_model.",
                                                     "diffusion_model.",
                                                     "net.",
                                                     "transformer.",
                                                     "model.",
                                                     "module.",
                                                     "first_stage_model.",
                                                     "vae.",
                                                     "text_encoder.",
                                                     "text_encoders.umt5xxl.transformer.",
                                                     "encoder_model."};

std::string without_infixes(std::string_view name) {
  std::string text(name);
  for (const std::string_view infix : kInfixes) {
    for (size_t at = text.find(infix); at != std::string::npos; at = text.find(infix, at)) text.erase(at, infix.size());
  }
  return text;
}

/// Replace `from` by `to` if the text starts with it.
bool swap_head(std::string& text, std::string_view from, std::string_view to) {
  if (!text.starts_with(from)) return false;
  text.replace(0, from.size(), to);
  return true;
}

bool swap_head(std::string& text, std::span<const Pair> pairs) {
  return std::any_of(pairs.begin(), pairs.end(), [&](const Pair& pair) { return swap_head(text, pair.first, pair.second); });
}

/// "blocks.12.rest" → {12, "rest"}.
std::optional<std::pair<int64_t, std::string_view>> indexed(std::string_view text, std::string_view head) {
  if (!text.starts_with(head)) return std::nullopt;
  text.remove_prefix(head.size());
  int64_t index = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), index);
  if (error != std::errc() || end == text.data() + text.size() || *end != '.' || index < 0) return std::nullopt;
  return std::pair(index, text.substr(static_cast<size_t>(end - text.data()) + 1));
}

// ---- DiT ------------------------------------------------------------------------------------------------------------

constexpr std::array<Pair, 12> kDitTop{{
    {"condition_embedder.text_embedder.linear_1.", "text_embedding.0."},
    {"condition_embedder.text_embedder.linear_2.", "text_embedding.2."},
    {"condition_embedder.time_embedder.linear_1.", "time_embedding.0."},
    {"condition_embedder.time_embedder.linear_2.", "time_embedding.2."},
    {"condition_embedder.time_proj.", "time_projection.1."},
    {"condition_embedder.image_embedder.norm1.", "img_emb.proj.0."},
    {"condition_embedder.image_embedder.ff.net.0.proj.", "img_emb.proj.1."},
    {"condition_embedder.image_embedder.ff.net.2.", "img_emb.proj.3."},
    {"condition_embedder.image_embedder.norm2.", "img_emb.proj.4."},
    {"condition_embedder.image_embedder.pos_embed", "img_emb.emb_pos"},
    {"proj_out.", "head.head."},
    {"scale_shift_table", "head.modulation"},
}};
// diffusers numbers the norms by position, Wan by construction: the affine one before cross-attention is norm2 there, norm3
// here. norm1 and the other one carry no tensors.
constexpr std::array<Pair, 6> kDitBlock{{
    {"scale_shift_table", "modulation"},
    {"norm2.", "norm3."},
    {"ffn.net.0.proj.", "ffn.0."},
    {"ffn.net.2.", "ffn.2."},
    {"proj_in.", "before_proj."},  // VACE side blocks
    {"proj_out.", "after_proj."},
}};
constexpr std::array<Pair, 2> kDitAttention{{{"attn1.", "self_attn."}, {"attn2.", "cross_attn."}}};
constexpr std::array<Pair, 7> kDitProjection{{
    {"to_q.", "q."},
    {"to_k.", "k."},
    {"to_v.", "v."},
    {"to_out.0.", "o."},
    {"add_k_proj.", "k_img."},
    {"add_v_proj.", "v_img."},
    {"norm_added_k.", "norm_k_img."},
}};

/// SLA v1's projection lies in whatever module replaced the attention call: "self_attn.attn_op.local_attn.proj_l."
/// (TurboDiffusion), "self_attn.attn.proj_l." (SLA's module in place of it), "attn1.attn_impl.proj_l." (FastVideo). Canonical:
/// "self_attn.proj_l.".
std::string without_module_of_projection(std::string text) {
  constexpr std::string_view kAttention = ".self_attn.", kProjection = ".proj_l.";
  const size_t attention = text.find(kAttention), projection = text.rfind(kProjection);
  if (text.starts_with("blocks.") && attention != std::string::npos && projection != std::string::npos && projection > attention)
    text.erase(attention + kAttention.size() - 1, projection - (attention + kAttention.size() - 1));
  return text;
}

std::string dit_from_diffusers(std::string text) {
  for (const std::string_view head : {std::string_view("blocks."), std::string_view("vace_blocks.")}) {
    const auto block = indexed(text, head);
    if (!block) continue;
    std::string rest(block->second);
    for (const Pair& attention : kDitAttention) {
      if (!rest.starts_with(attention.first)) continue;
      std::string projection = rest.substr(attention.first.size());
      swap_head(projection, kDitProjection);
      return fmt::format("{}{}.{}{}", head, block->first, attention.second, projection);
    }
    swap_head(rest, kDitBlock);
    return fmt::format("{}{}.{}", head, block->first, rest);
  }
  swap_head(text, kDitTop);
  return text;
}

// ---- VAE ------------------------------------------------------------------------------------------------------------

constexpr std::array<Pair, 5> kVaeResidual{{
    {"norm1.", "residual.0."},
    {"conv1.", "residual.2."},
    {"norm2.", "residual.3."},
    {"conv2.", "residual.6."},
    {"conv_shortcut.", "shortcut."},
}};
constexpr std::array<Pair, 10> kVaeTop{{
    {"encoder.conv_in.", "encoder.conv1."},
    {"decoder.conv_in.", "decoder.conv1."},
    {"encoder.norm_out.", "encoder.head.0."},
    {"encoder.conv_out.", "encoder.head.2."},
    {"decoder.norm_out.", "decoder.head.0."},
    {"decoder.conv_out.", "decoder.head.2."},
    {"quant_conv.", "conv1."},
    {"post_quant_conv.", "conv2."},
    {"encoder.mid_block.attentions.0.", "encoder.middle.1."},
    {"decoder.mid_block.attentions.0.", "decoder.middle.1."},
}};

std::string residual_name(std::string_view head, int64_t index, std::string_view rest) {
  std::string text(rest);
  swap_head(text, kVaeResidual);
  return fmt::format("{}{}.{}", head, index, text);
}

/// `res_blocks` residual blocks per encoder level. The encoder's diffusers list is flat like the original one; in the
/// decoder a level is res_blocks + 1 residual blocks and, except for the last level, one upsample.
std::string vae_from_diffusers(std::string text, int64_t res_blocks) {
  for (const std::string_view side : {std::string_view("encoder."), std::string_view("decoder.")}) {
    if (const auto mid = indexed(text, fmt::format("{}mid_block.resnets.", side))) {
      return residual_name(fmt::format("{}middle.", side), 2 * mid->first, mid->second);  // 1 is the attention between
    }
  }
  if (const auto down = indexed(text, "encoder.down_blocks.")) {
    return residual_name("encoder.downsamples.", down->first, down->second);
  }
  if (const auto level = indexed(text, "decoder.up_blocks.")) {
    const int64_t first = level->first * (res_blocks + 2);
    if (const auto residual = indexed(level->second, "resnets.")) {
      return residual_name("decoder.upsamples.", first + residual->first, residual->second);
    }
    if (const auto up = indexed(level->second, "upsamplers.")) {
      return fmt::format("decoder.upsamples.{}.{}", first + res_blocks + 1, up->second);
    }
  }
  swap_head(text, kVaeTop);
  return text;
}

// ---- UMT5 -----------------------------------------------------------------------------------------------------------

constexpr std::array<Pair, 10> kUmt5Block{{
    {"norm1.", "layer.0.layer_norm."},
    {"attn.q.", "layer.0.SelfAttention.q."},
    {"attn.k.", "layer.0.SelfAttention.k."},
    {"attn.v.", "layer.0.SelfAttention.v."},
    {"attn.o.", "layer.0.SelfAttention.o."},
    {"pos_embedding.embedding.", "layer.0.SelfAttention.relative_attention_bias."},
    {"norm2.", "layer.1.layer_norm."},
    {"ffn.gate.0.", "layer.1.DenseReluDense.wi_0."},
    {"ffn.fc1.", "layer.1.DenseReluDense.wi_1."},
    {"ffn.fc2.", "layer.1.DenseReluDense.wo."},
}};
constexpr std::array<Pair, 2> kUmt5Top{{{"token_embedding.", "shared."}, {"norm.", "encoder.final_layer_norm."}}};

std::string umt5_from_original(std::string text) {
  if (const auto block = indexed(text, "blocks.")) {
    std::string rest(block->second);
    swap_head(rest, kUmt5Block);
    return fmt::format("encoder.block.{}.{}", block->first, rest);
  }
  swap_head(text, kUmt5Top);
  return text;
}

// ---- what it is -----------------------------------------------------------------------------------------------------

struct Marker {
  Kind kind;
  Naming naming;
  std::string_view first, second;  ///< both must be there
};
constexpr std::array<Marker, 12> kMarkers{{
    {Kind::kWanDit, Naming::kOriginal, "head.modulation", "time_projection.1.weight"},
    {Kind::kWanDit, Naming::kDiffusers, "scale_shift_table", "condition_embedder.time_proj.weight"},
    {Kind::kWanVae, Naming::kOriginal, "decoder.middle.0.residual.0.gamma", "decoder.head.0.gamma"},
    {Kind::kWanVae, Naming::kOriginal, "encoder.middle.0.residual.0.gamma", "encoder.head.0.gamma"},
    {Kind::kWanVae, Naming::kDiffusers, "decoder.mid_block.resnets.0.norm1.gamma", "decoder.norm_out.gamma"},
    {Kind::kWanVae, Naming::kDiffusers, "encoder.mid_block.resnets.0.norm1.gamma", "encoder.norm_out.gamma"},
    {Kind::kUmt5, Naming::kOriginal, "token_embedding.weight", "blocks.0.pos_embedding.embedding.weight"},
    {Kind::kUmt5, Naming::kHuggingFace, "encoder.block.0.layer.0.SelfAttention.q.weight", "encoder.final_layer_norm.weight"},
    {Kind::kClip, Naming::kHuggingFace, "vision_model.embeddings.class_embedding", "vision_model.pre_layrnorm.weight"},
    {Kind::kClip, Naming::kOriginal, "visual.cls_embedding", "visual.patch_embedding.weight"},
    {Kind::kClip, Naming::kHuggingFace, "text_model.embeddings.token_embedding.weight", "text_model.final_layer_norm.weight"},
    {Kind::kTaehv, Naming::kOriginal, "decoder.1.weight", "decoder.3.conv.0.weight"},
}};

struct LoraEnding {
  std::string_view text;
  LoraPart part;
};
constexpr std::array<LoraEnding, 13> kLoraEndings{{{".lora_A.weight", LoraPart::kDown},
                                                   {".lora_down.weight", LoraPart::kDown},
                                                   {".lora_A.default.weight", LoraPart::kDown},
                                                   {".lora.down.weight", LoraPart::kDown},
                                                   {".lora_a.weight", LoraPart::kDown},
                                                   {".lora_B.weight", LoraPart::kUp},
                                                   {".lora_up.weight", LoraPart::kUp},
                                                   {".lora_B.default.weight", LoraPart::kUp},
                                                   {".lora.up.weight", LoraPart::kUp},
                                                   {".lora_b.weight", LoraPart::kUp},
                                                   {".alpha", LoraPart::kAlpha},
                                                   {".diff", LoraPart::kDiff},
                                                   {".diff_b", LoraPart::kBiasDiff}}};

constexpr std::string_view kSharedRelativeBias = "encoder.block.1.layer.0.SelfAttention.relative_attention_bias.weight";
constexpr std::string_view kSecondLayer = "encoder.block.1.layer.0.SelfAttention.q.weight";

}  // namespace

std::span<const std::string_view> known_prefixes() noexcept { return kPrefixes; }

LoraName lora_name(std::string_view tensor) noexcept {
  const auto ending =
      std::find_if(kLoraEndings.begin(), kLoraEndings.end(), [&](const LoraEnding& e) { return tensor.ends_with(e.text); });
  if (ending == kLoraEndings.end()) return {};
  return {ending->part, tensor.substr(0, tensor.size() - ending->text.size())};
}

bool is_storage_name(std::string_view name) noexcept {
  constexpr std::array<std::string_view, 7> kEndings{".scale_weight", ".weight_scale",   ".scale_input", ".input_scale",
                                                     ".comfy_quant",  ".weight_scale_2", "scaled_fp8"};
  return std::any_of(kEndings.begin(), kEndings.end(), [&](std::string_view ending) { return name.ends_with(ending); });
}

NameScheme recognise(const std::vector<std::string>& names) {
  const auto is_lora = [](const std::string& name) {  // alpha alone says nothing: router packs have one
    const LoraPart part = lora_name(name).part;
    return part != LoraPart::kNone && part != LoraPart::kAlpha;
  };
  if (std::any_of(names.begin(), names.end(), is_lora)) return {Kind::kLora, Naming::kUnknown, "", 0};

  std::unordered_set<std::string> plain;
  for (const std::string& name : names) plain.insert(without_infixes(name));
  for (const std::string_view prefix : kPrefixes) {
    const auto has = [&](std::string_view name) { return plain.contains(fmt::format("{}{}", prefix, name)); };
    const auto marker =
        std::find_if(kMarkers.begin(), kMarkers.end(), [&](const Marker& m) { return has(m.first) && has(m.second); });
    if (marker == kMarkers.end()) continue;
    NameScheme scheme{marker->kind, marker->naming, std::string(prefix), 0};
    // ComfyUI repackages keep the original names behind their own prefix.
    if (scheme.kind == Kind::kWanDit && scheme.naming == Naming::kOriginal && prefix.ends_with("diffusion_model.")) {
      scheme.naming = Naming::kComfy;
    }
    // T5 shares the first layer's position bias; UMT5 has one in every layer. One layer alone cannot tell: taken as UMT5,
    // the sizes decide.
    if (scheme.kind == Kind::kUmt5 && scheme.naming == Naming::kHuggingFace && has(kSecondLayer) && !has(kSharedRelativeBias)) {
      scheme.kind = Kind::kT5;
    }
    if (scheme.kind == Kind::kWanVae && scheme.naming == Naming::kDiffusers) {
      for (const std::string& name : plain) {
        std::string_view text = name;
        text.remove_prefix(std::min(prefix.size(), text.size()));
        const auto level = indexed(text, "decoder.up_blocks.");
        const auto residual = level ? indexed(level->second, "resnets.") : std::nullopt;
        if (residual) scheme.vae_res_blocks = std::max(scheme.vae_res_blocks, residual->first);
      }
    }
    return scheme;
  }
  return {};
}

std::string canonical_name(std::string_view name, const NameScheme& scheme) {
  if (is_storage_name(name)) return "";
  std::string text = without_infixes(name);
  if (!text.starts_with(scheme.prefix)) return text;
  text.erase(0, scheme.prefix.size());
  if (scheme.kind == Kind::kWanDit && scheme.naming == Naming::kDiffusers) text = dit_from_diffusers(std::move(text));
  if (scheme.kind == Kind::kWanDit) return without_module_of_projection(std::move(text));
  if (scheme.kind == Kind::kWanVae && scheme.naming == Naming::kDiffusers) {
    return vae_from_diffusers(std::move(text), scheme.vae_res_blocks);
  }
  if (scheme.kind == Kind::kUmt5 && scheme.naming == Naming::kOriginal) return umt5_from_original(std::move(text));
  if (scheme.kind == Kind::kUmt5 && text == "encoder.embed_tokens.weight") return "shared.weight";  // tied
  return text;
}

}  // namespace sla2::weights
